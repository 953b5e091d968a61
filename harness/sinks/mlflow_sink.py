"""A report as an MLflow run, a sweep as a parent run. Runs are found by a tag: repeating it is harmless."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import table
from harness.report import PREDICTIONS_FILE, REPORT_FILE, SAMPLES_FILE, Report
from harness.secrets import redact
from harness.sinks import files
from harness.sinks.mlflow_store import Store

REPORT_TAG = "report_sha256"
SWEEP_TAG = "sweep_id"
ARTIFACTS = (REPORT_FILE, files.MARKDOWN_FILE, SAMPLES_FILE, PREDICTIONS_FILE, files.LATENCY_FILE)


def log_run(store: Store, report: Report, folder: Path, parent_run_id: str | None = None) -> str:
    """Logs the job in `folder` and returns its run id; a job that is already there is left as it is."""
    digest = hashlib.sha256((folder / REPORT_FILE).read_bytes()).hexdigest()
    known = _find(store, REPORT_TAG, digest)
    if known is not None and known.info.status != "RUNNING":
        return str(known.info.run_id)
    if known is not None:  # a logging that was interrupted: start over
        store.client.delete_run(known.info.run_id)
    run_id = _create(store, _run_name(report), tags(report) | {REPORT_TAG: digest}, parent_run_id, report)
    try:
        _log_values(store, run_id, params(report), metrics(report))
        _log_dataset(store, run_id, report)
        for name in ARTIFACTS:
            if (folder / name).is_file():
                store.client.log_artifact(run_id, str(folder / name))
        if (folder / ".hydra").is_dir():
            store.client.log_artifacts(run_id, str(folder / ".hydra"), ".hydra")
        _log_text(store, run_id, "config.json", json.dumps(report.spec.to_plain(), indent=2))
    except BaseException:
        with contextlib.suppress(
            Exception
        ):  # the store may be what failed; the first error is the one to tell
            store.client.delete_run(run_id)
        raise
    store.client.set_terminated(run_id, "FINISHED" if report.status == "finished" else "FAILED")
    return run_id


def open_sweep(store: Store, sweep_id: str, name: str) -> str:
    """The parent run of a sweep, made where it is missing; it stays RUNNING until `close_sweep`."""
    known = _find(store, SWEEP_TAG, sweep_id)
    return str(known.info.run_id) if known is not None else _create(store, name, {SWEEP_TAG: sweep_id}, None)


def close_sweep(
    store: Store,
    parent_run_id: str,
    reports: list[Report],
    run_ids: list[str],
    paths: list[Path],
    status: str,
) -> None:
    """Puts table and chart on the parent, each job's speed-up on its run, and ends the parent."""
    for row, run_id in zip(table.rows(reports), run_ids, strict=True):
        if row.speedup is not None and "speedup" not in store.client.get_run(run_id).data.metrics:
            store.client.log_metric(run_id, "speedup", row.speedup)
    best = max((r.timing.throughput_sps for r in reports if r.timing is not None), default=None)
    if best is not None:
        store.client.log_metric(parent_run_id, "best_throughput_sps", best)
    for path in paths:
        store.client.log_artifact(parent_run_id, str(path))
    store.client.set_tag(parent_run_id, "jobs", str(len(reports)))
    store.client.set_tag(parent_run_id, "failed", str(sum(r.status != "finished" for r in reports)))
    store.client.set_terminated(parent_run_id, status)


def params(report: Report) -> dict[str, str]:
    """The choices of the user."""
    spec = report.spec
    run_time = spec.run_time
    length = (
        f"{run_time.seconds:g} s" if run_time.seconds is not None else f"{run_time.iterations} iterations"
    )
    threads = report.identity.threads if report.identity.threads is not None else spec.host.threads
    values = {
        "model": spec.model.name, "precision": spec.precision, "backend": spec.backend.name,
        "graph": spec.backend.graph, "skip_padding": spec.backend.skip_padding, "batch_size": spec.batch.size,
        "seq_len": spec.batch.seq_len, "tokens": spec.batch.tokens, "run_time": length, "threads": threads,
        "instances": spec.host.instances, "data": spec.data.name, "samples": spec.data.samples,
        "seed": spec.seed,
    }  # fmt: skip
    return {name: str(value) for name, value in values.items() if value is not None}


def tags(report: Report) -> dict[str, str]:
    """What ran, as it was observed."""
    identity = report.identity
    values: dict[str, Any] = {
        "contender": report.spec.contender, "status": report.status,
        "git_commit": identity.git_commit, "git_dirty": identity.git_dirty,
        "op_build": json.dumps(identity.op_build) if identity.op_build else None,
        "isa": identity.isa, "cpu": identity.cpu, "torch": identity.torch,
        "transformers": identity.transformers, "python": identity.python, "task": identity.task,
        "weights_source": identity.weights_source, "weights_reason": identity.weights_reason,
        "fingerprint": identity.fingerprint,
        "noisy": report.timing.noisy if report.timing else None,
        "accuracy_absent_because": report.accuracy.absent_because if report.accuracy else None,
        "gate": report.accuracy.gate if report.accuracy else None,
        "failure": f"{report.failure.kind}: {report.failure.message}" if report.failure else None,
    }  # fmt: skip
    return {name: redact(str(value))[:5000] for name, value in values.items() if value is not None}


def metrics(report: Report) -> dict[str, float]:
    """Every number that was measured; one that was not is absent."""
    values: dict[str, float | None] = {}
    if report.timing is not None:
        timing = report.timing
        values |= {f"latency_ms/{name}": value for name, value in timing.latency_ms.items()}
        values |= {f"interference/{name}": value for name, value in timing.interference.items()}
        values |= {
            "throughput_sps": timing.throughput_sps, "tokens_per_s": timing.tokens_per_s,
            "tflops": timing.tflops, "peak_fraction": timing.peak_fraction, "calls": timing.count,
            "valid_tokens_per_call": timing.valid_tokens_per_call,
            "skipped_tokens_per_call": timing.skipped_tokens_per_call,
        }  # fmt: skip
    if report.accuracy is not None:
        quality = report.accuracy
        values |= {
            name: getattr(quality, name)
            for name in ("accuracy", "f1", "agreement", "flips", "mcnemar_p", "roc_auc", "threshold",
                         "reference_accuracy", "reference_f1", "reference_roc_auc")
        }  # fmt: skip
        values |= {"error/logit_max_abs": quality.logit_max_abs, "error/cosine_min": quality.cosine_min}
        for name in ("accuracy", "f1"):
            interval = getattr(quality, f"{name}_interval")
            if interval is not None:
                values |= {f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
    phases, memory = report.phases, report.memory
    values |= {
        "import_s": phases.import_s, "load_s": phases.load_s, "pack_s": phases.pack_s,
        "cold_ms": phases.cold_ms,
        "memory_mb/peak": memory.peak_mb, "memory_mb/weights": memory.weights_mb,
        "memory_mb/packed": memory.packed_mb,
    }  # fmt: skip
    return {name: float(value) for name, value in values.items() if value is not None}


def _run_name(report: Report) -> str:
    batch = report.spec.batch
    return f"{report.spec.contender} {report.spec.model.name} {batch.size}x{batch.seq_len}"


def _create(
    store: Store, name: str, tagged: dict[str, str], parent: str | None, report: Report | None = None
) -> str:
    started = None
    if report is not None and report.started_at is not None:
        started = int(datetime.fromisoformat(report.started_at).timestamp() * 1000)
    linked = tagged | ({"mlflow.parentRunId": parent} if parent is not None else {})
    run = store.client.create_run(
        store.experiment_id, start_time=started or int(time.time() * 1000), tags=linked, run_name=name
    )
    return str(run.info.run_id)


def _find(store: Store, tag: str, value: str) -> Any:
    runs = store.client.search_runs([store.experiment_id], f"tags.{tag} = '{value}'", max_results=1)
    return runs[0] if runs else None


def _log_values(store: Store, run_id: str, chosen: dict[str, str], measured: dict[str, float]) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    store.client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in measured.items()],
        params=[Param(name, value) for name, value in chosen.items()],
    )


def _log_dataset(store: Store, run_id: str, report: Report) -> None:
    """Records which samples were scored, so that the UI can tell two evaluations apart."""
    if report.accuracy is None or report.accuracy.data_digest is None:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = report.spec.data
    source = data.path or data.hub_id or data.shipped or "random token ids"
    dataset = Dataset(
        name=data.name, digest=report.accuracy.data_digest[:36], source_type="local",
        source=json.dumps({"source": source, "samples": report.accuracy.samples}),
    )  # fmt: skip
    store.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])])


def _log_text(store: Store, run_id: str, name: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(redact(text), encoding="utf-8")
        store.client.log_artifact(run_id, str(path))
