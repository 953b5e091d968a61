"""Whether the hub is needed, and that its absence is found out within seconds."""

from __future__ import annotations

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_tools import run_spec

from harness.values.spec import DataSpec, ModelSpec
from harness.worker import hub


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the code under test sets is undone with what is set here.
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("model", "data", "needed"),
    [
        (ModelSpec("m", source="hub", hub_id="a/b"), DataSpec("d"), True),
        (ModelSpec("m", source="auto", hub_id="a/b"), DataSpec("d"), True),
        (ModelSpec("m", source="auto", package="p"), DataSpec("d"), False),
        (ModelSpec("m", source="random", hub_id="a/b"), DataSpec("d"), False),
        (ModelSpec("m", source="path", path="p"), DataSpec("d", hub_id="nyu-mll/glue"), True),
        (ModelSpec("m", source="path", path="p", tokenizer="bert-base-uncased"), DataSpec("d"), True),
    ],
)
def test_needs_hub(model: ModelSpec, data: DataSpec, needed: bool) -> None:
    assert hub.needs_hub(run_spec(model, data=data)) is needed


def test_a_tokenizer_folder_needs_no_hub(tmp_path: Path) -> None:
    model = ModelSpec("m", source="path", path="p", tokenizer=str(tmp_path))
    assert not hub.needs_hub(run_spec(model))


def test_a_closed_port_switches_to_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        problem = hub.go_offline_unless_reachable()
    assert problem is not None and "cannot be reached" in problem
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_hub_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent_port}")
    begin = time.monotonic()
    assert hub.go_offline_unless_reachable(timeout=0.3) is not None
    assert time.monotonic() - begin < 2


def test_any_answer_means_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub.go_offline_unless_reachable() is None
        server.shutdown()
    assert os.environ["HF_HUB_OFFLINE"] == ""


def test_the_users_own_choice_needs_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "no address at all")
    assert hub.go_offline_unless_reachable() == "HF_HUB_OFFLINE is set"
