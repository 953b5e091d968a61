"""The whole way through `python -m harness` with the real worker: small, but nothing is replaced."""

import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

from harness.ask.schema import ROOT
from harness.judge import floors
from harness.values.report import Report

SMALL = ("batch=1", "batch.seq_len=16", "data.samples=8")
FEW = "run_time.iterations=3"
ENOUGH = "run_time.seconds=1"  # of calls and of time, for a speed-up to be told


def harness(*arguments: str, run_time: str = FEW) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments, *SMALL, run_time]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_one_run(store_uri: str, tmp_path: Path) -> None:
    done = harness(
        "model=minilm", "precision=fp32", f"tracking.uri={store_uri}", f"hydra.run.dir={tmp_path}/run"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.read(tmp_path / "run")
    assert report.status == "finished" and report.identity.weights_source == "package"
    assert report.timing is not None and report.timing.count == 3 and report.timing.latency_ms["p50"] > 0
    assert "p99" not in report.timing.latency_ms, "three samples support no p99"
    assert report.accuracy is not None and report.accuracy.samples == 8 and report.accuracy.flips == 0
    assert report.op, "the op says what it did"
    assert "op-fp32" in done.stdout


def test_one_sweep(store_uri: str, tmp_path: Path) -> None:
    done = harness(
        "-m", "model=minilm", "contender=hf-fp32,op-bf16_qint8", f"tracking.uri={store_uri}",
        f"hydra.sweep.dir={tmp_path}/sweep", run_time=ENOUGH,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["contender"]: run for run in runs if run is not parent}
    assert set(children) == {"hf-fp32", "op-bf16_qint8"}
    reports = [Report.read(tmp_path / "sweep" / job) for job in ("0", "1")]
    # On a machine that stood still in between, a second may hold too few calls.
    told = all(map(floors.enough, reports))
    assert (children["op-bf16_qint8"].data.metrics.get("speedup", 0) > 0) is told
    assert (tmp_path / "sweep/sweep.png").stat().st_size > 1000
