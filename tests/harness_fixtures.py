"""What several tests of the harness share: a spec, a migrated store, the command line with a stub worker."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import __main__ as command
from harness.run import job, launch
from harness.sinks.mlflow_store import open_store
from harness.values.spec import BatchSpec, DataSpec, ModelSpec, RunSpec

STUB = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))


def a_spec(**changes: Any) -> RunSpec:
    """A valid spec that needs no weights; `changes` are fields of RunSpec."""
    model = ModelSpec("tiny", source="random", architecture={"max_position_embeddings": 64})
    spec = RunSpec(model, DataSpec("synthetic"), batch=BatchSpec(2, 8))
    return dataclasses.replace(spec, **changes)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store as MLflow makes it, which takes seconds; tests take copies."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{file}", "made-by-the-fixture")
    return file


@pytest.fixture
def store_uri(migrated: Path, tmp_path: Path) -> str:
    """A fresh store of the test's own."""
    copy = tmp_path / "store" / "mlflow.db"
    copy.parent.mkdir()
    shutil.copy(migrated, copy)
    return f"sqlite:///{copy}"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`python -m harness <arguments>` in this process with the stub as its worker; returns the exit status.

    A run goes to tmp_path/run and a sweep to tmp_path/sweep.
    """
    monkeypatch.setattr(job, "launch", functools.partial(launch.launch, worker=STUB))
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("BERT_OP_SWEEP", "BERT_OP_TRACKING_URI", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def run(*arguments: str) -> int:
        places = [f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/sweep"]
        monkeypatch.setattr(sys, "argv", ["harness", *arguments, *places])
        return command.main()

    yield run
