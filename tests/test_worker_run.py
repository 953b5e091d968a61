"""The worker as a whole: a spec in, a report out, and every way to fail told in one paragraph."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from worker_tools import (
    ARCHITECTURE,
    PAIRS,
    edit_config,
    make_checkpoint,
    path_model,
    run_spec,
    shared,
    write_pairs,
)

from harness.values.report import PREDICTIONS_FILE, REPORT_FILE, SAMPLES_FILE, SPEC_FILE, Report
from harness.values.spec import (
    BackendSpec,
    BatchSpec,
    DataSpec,
    HostSpec,
    MeasureSpec,
    ModelSpec,
    RunSpec,
    RunTimeSpec,
)
from harness.worker.__main__ import main, one_paragraph
from harness.worker.run import begin

pytestmark = pytest.mark.usefixtures("hugging_face_as_it_is")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def carry_out(spec: RunSpec, folder: Path) -> tuple[int, Report]:
    """Runs the worker in this process."""
    folder.mkdir(exist_ok=True)
    spec.write(folder / SPEC_FILE)
    status = main([str(folder / SPEC_FILE)])
    return status, Report.read(folder)


def start(spec: RunSpec, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the worker as the parent does."""
    folder.mkdir(exist_ok=True)
    spec.write(folder / SPEC_FILE)
    command = [sys.executable, "-m", "harness.worker", str(folder / SPEC_FILE)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def pairs_of(folder: Path) -> DataSpec:
    return DataSpec("pairs", path=str(write_pairs(folder / "pairs.tsv")), samples="all")


def test_everything_of_a_classifier(checkpoint: Path, tmp_path: Path) -> None:
    spec = run_spec(path_model(checkpoint), data=pairs_of(tmp_path), backend=BackendSpec("hf", "jit"))
    status, report = carry_out(spec, tmp_path / "run")
    assert (status, report.status, report.failure) == (0, "finished", None)
    assert report.spec == spec
    assert report.accuracy is not None and report.accuracy.agreement == 1.0
    assert report.timing is not None and report.timing.count == 3
    assert report.timing.throughput_sps == pytest.approx(2e3 / report.timing.latency_ms["p50"])
    phases = dataclasses.asdict(report.phases)
    assert all(value is not None and value > 0 for value in phases.values()), phases
    assert report.identity.task == "paraphrase-classification"
    assert report.identity.weights_source == "path"
    assert report.memory.weights_mb is not None and 0.2 < report.memory.weights_mb < 2
    assert report.memory.packed_mb is None and report.op == {}
    samples = np.load(tmp_path / "run" / SAMPLES_FILE)["latency_ms"]
    assert float(np.median(samples)) == report.timing.latency_ms["p50"]
    predictions = json.loads((tmp_path / "run" / PREDICTIONS_FILE).read_text())
    assert [row["label"] for row in predictions] == [label for _, _, label in PAIRS]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        [SPEC_FILE, REPORT_FILE, SAMPLES_FILE, PREDICTIONS_FILE]
    ), "no temporary file is left behind"


def test_only_throughput_of_random_weights(tmp_path: Path) -> None:
    spec = run_spec(
        ModelSpec("tiny", source="random", architecture=ARCHITECTURE),
        # A source that would fail: nothing needs it.
        data=DataSpec("gone", path="gone.tsv"),
        measure=MeasureSpec(accuracy=False),
        precision="bf16",
        run_time=RunTimeSpec(seconds=0.05, warmup_seconds=0.0),
    )
    status, report = carry_out(spec, tmp_path)
    assert (status, report.accuracy) == (0, None)
    assert report.timing is not None and report.timing.elapsed_s >= 0.05
    assert not (tmp_path / PREDICTIONS_FILE).exists()


def test_accuracy_of_random_weights_is_absent_with_its_reason(tmp_path: Path) -> None:
    model = ModelSpec("tiny", source="random", architecture=ARCHITECTURE)
    status, report = carry_out(run_spec(model, data=DataSpec("gone", path="gone.tsv")), tmp_path)
    assert status == 0
    assert report.accuracy is not None
    assert (report.accuracy.accuracy, report.accuracy.absent_because) == (None, "the weights are random")


def test_only_accuracy(checkpoint: Path, tmp_path: Path) -> None:
    spec = run_spec(path_model(checkpoint), data=pairs_of(tmp_path), measure=MeasureSpec(throughput=False))
    status, report = carry_out(spec, tmp_path / "run")
    assert (status, report.timing) == (0, None)
    assert report.accuracy is not None and report.accuracy.samples == len(PAIRS)
    assert not (tmp_path / "run" / SAMPLES_FILE).exists()


def test_only_accuracy_of_weights_that_turn_out_random_is_a_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ModelSpec("tiny", hub_id="nobody/no-such-model", architecture=ARCHITECTURE)
    spec = run_spec(model, data=pairs_of(tmp_path), measure=MeasureSpec(throughput=False))
    status, report = carry_out(spec, tmp_path / "run")
    assert status == 1 and report.failure is not None and report.wrong_input
    assert report.failure.message.startswith("measure='accuracy': there is nothing to score: random weights")
    assert "HF_HUB_OFFLINE" in report.failure.message and report.failure.phase == "load"


def test_real_text_is_timed_with_its_padding(checkpoint: Path, tmp_path: Path) -> None:
    spec = run_spec(
        path_model(checkpoint),
        data=pairs_of(tmp_path),
        batch=BatchSpec(2, 24, tokens="text"),
        measure=MeasureSpec(accuracy=False),
    )
    _, report = carry_out(spec, tmp_path / "run")
    assert report.timing is not None
    assert 2 * 5 < report.timing.valid_tokens_per_call < 2 * 24
    assert report.timing.skipped_tokens_per_call == 0


def test_instances_wait_for_each_other(checkpoint: Path, tmp_path: Path) -> None:
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    spec = run_spec(
        path_model(checkpoint),
        host=HostSpec(instances=2),
        instance=1,
        barrier=str(barrier),
        measure=MeasureSpec(accuracy=False),
    )
    seen: list[bool] = []

    def other() -> None:
        while not (barrier / "ready-1").exists():
            threading.Event().wait(0.01)
        seen.append(Report.read(tmp_path / "run").timing is None)
        (barrier / "ready-0").touch()

    thread = threading.Thread(target=other)
    thread.start()
    status, report = carry_out(spec, tmp_path / "run")
    thread.join()
    assert (status, seen) == (0, [True])
    assert report.timing is not None


def with_nan(folder: Path) -> ModelSpec:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["classifier.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return path_model(folder)


def of_type(folder: Path, model_type: str) -> ModelSpec:
    edit_config(folder, model_type=model_type)
    return path_model(folder)


def short_data(folder: Path) -> DataSpec:
    (folder / "short.tsv").write_text("label\tsentence1\n1\ta\n")
    return DataSpec("short", path=str(folder / "short.tsv"))


# name, changes to the spec made from the checkpoint's folder, what the message names
Changes = Callable[[Path], dict[str, Any]]
WRONG: list[tuple[str, Changes, tuple[str, ...]]] = [
    ("no folder", lambda f: {"model": path_model(f / "gone")}, ("model.path=", "gone", "is no folder")),
    ("no BERT", lambda f: {"model": of_type(f, "gpt2")}, ("model.path=", "no BERT", "'gpt2'")),
    ("NaN", lambda f: {"model": with_nan(f)}, ("classifier.weight", "NaN")),
    ("no columns", lambda f: {"data": short_data(f)}, ("data.path=", "short.tsv", "no column sentence2")),
    ("no data", lambda f: {"data": DataSpec("x", path=str(f / "x.tsv"))}, ("data.path=", "does not exist")),
    ("int8 of hf", lambda f: {"precision": "bf16_qint8"}, ("precision='bf16_qint8'", "backend=op")),
    ("too long", lambda f: {"batch": BatchSpec(1, 49)}, ("batch.seq_len=49", "1 to 48")),
    ("threads", lambda f: {"host": HostSpec(threads=4096)}, ("host.threads=4096",)),
    (
        "text without tokenizer",
        lambda f: {
            "model": ModelSpec("t", source="random", architecture=ARCHITECTURE),
            "data": pairs_of(f),
            "batch": BatchSpec(1, 8, tokens="text"),
        },
        ("batch.tokens='text'", "no tokenizer"),
    ),
]


@pytest.mark.parametrize(("changes", "named"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_input_is_one_paragraph(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: Changes, named: tuple[str, ...]
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    spec = run_spec(path_model(folder), data=pairs_of(tmp_path))
    status, report = carry_out(dataclasses.replace(spec, **changes(folder)), tmp_path / "run")
    assert (status, report.status) == (1, "failed")
    assert report.failure is not None and report.failure.kind == "user"
    assert all(part in report.failure.message for part in named), report.failure.message
    assert "\n" not in report.failure.message
    assert report.failure.phase is not None
    assert "Traceback" not in capfd.readouterr().err


def test_from_its_beginning_on_a_run_is_on_the_disk(tmp_path: Path) -> None:
    spec = run_spec(ModelSpec("tiny", source="random", architecture=ARCHITECTURE))
    begin(spec, tmp_path)
    report = Report.read(tmp_path)
    assert (report.spec, report.status, report.failure) == (spec, "running", None)
    assert report.started_at is not None and datetime.fromisoformat(report.started_at).tzinfo is not None


def test_a_defect_keeps_what_was_measured(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness.worker import throughput

    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(throughput, "measure", broken)
    spec = run_spec(path_model(checkpoint), data=pairs_of(tmp_path))
    status, report = carry_out(spec, tmp_path / "run")
    assert status == 1
    assert report.failure is not None
    assert (report.failure.kind, report.failure.phase) == ("error", "measure")
    assert report.failure.message == "ZeroDivisionError: first line second line"
    assert report.accuracy is not None and report.accuracy.samples == len(PAIRS)
    assert (tmp_path / "run" / PREDICTIONS_FILE).exists()
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    carry_out(spec, tmp_path / "run")
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["no/such/spec.json"]])
def test_a_wrong_call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "SPEC.json" in capsys.readouterr().err


def test_a_long_message_is_cut_and_says_so() -> None:
    text = one_paragraph(ValueError("x" * 5000))
    assert len(text) < 1100 and "HYDRA_FULL_ERROR=1" in text


def test_a_hub_that_cannot_be_reached_fails_within_seconds(tmp_path: Path) -> None:
    spec = run_spec(ModelSpec("x", source="hub", hub_id="nobody/no-such-model"))
    # Nothing listens on port 9 of this machine; an empty cache holds no model.
    run = start(
        spec, tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0"
    )
    report = Report.read(tmp_path)
    assert run.returncode == 1
    assert report.failure is not None and report.failure.kind == "user"
    assert "model.hub_id='nobody/no-such-model'" in report.failure.message
    assert "cannot be reached" in report.failure.message and "model.path" in report.failure.message
    assert report.phases.load_s is None
    assert "Retrying" not in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16_qint8"])
def test_the_op_in_a_process_of_its_own(tmp_path: Path, precision: str) -> None:
    if importlib.util.find_spec("bert_op") is None:
        pytest.skip("bert_op is not built")
    folder, file = shared("models", "minilm-l6-mrpc"), shared("data", "mrpc", "test.tsv")
    spec = run_spec(
        path_model(folder),
        data=DataSpec("mrpc", path=str(file), samples=64),
        backend=BackendSpec("op", "jit", skip_padding=True),
        precision=precision,
        batch=BatchSpec(2, 64, tokens="text"),
    )
    run = start(spec, tmp_path)
    report = Report.read(tmp_path)
    assert run.returncode == 0, report.failure
    assert report.op["precision"] == precision and report.op["fallbacks"] == []
    assert report.identity.op_build["isa"] == report.identity.isa
    assert report.memory.packed_mb is not None and report.memory.packed_mb > 5
    assert report.timing is not None and report.timing.skipped_tokens_per_call > 0
    assert report.accuracy is not None and report.accuracy.flips is not None
    assert report.accuracy.flips <= (0 if precision == "fp32" else 4)


def test_a_run_loads_neither_hydra_nor_mlflow(checkpoint: Path, tmp_path: Path) -> None:
    spec = run_spec(path_model(checkpoint), data=pairs_of(tmp_path))
    spec.write(tmp_path / SPEC_FILE)
    code = (
        "import sys; from harness.worker.__main__ import main; "
        f"status = main([{str(tmp_path / SPEC_FILE)!r}]); "
        "print(status, sorted({'hydra', 'omegaconf', 'mlflow', 'bert_op'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stdout.strip() == "0 []", run.stderr
