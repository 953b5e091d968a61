"""A report as an MLflow run, a sweep as a parent run.

Repeating any of it is harmless: a run is found by a tag, and what of it is already there stays. So a logging
that was interrupted is completed by doing it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.judge import floors, repeated
from harness.sinks import columns, files, mlflow_entities, mlflow_process, table
from harness.sinks import mlflow_values as values
from harness.sinks.mlflow_store import Store
from harness.values.redact import redact
from harness.values.report import PREDICTIONS_FILE, REPORT_FILE, SAMPLES_FILE, Report
from harness.values.view import View

if TYPE_CHECKING:
    from mlflow.entities import Dataset

REPORT_TAG = "report_sha256"
SWEEP_TAG = "sweep_id"
PARENT_TAG = "mlflow.parentRunId"
# `complete` is the last thing that is set: whatever lacks it was interrupted.
RECORD_TAG = "record"
COMPLETE, INCOMPLETE = "complete", "incomplete"
NOTE_TAG = "mlflow.note.content"
ARTIFACTS = (REPORT_FILE, files.MARKDOWN_FILE, SAMPLES_FILE, PREDICTIONS_FILE, files.LATENCY_FILE)


def log_run(store: Store, report: Report, folder: Path, parent_run_id: str | None = None) -> str:
    """Logs the job in `folder` and returns its run id.

    A run that is there already is left as it is when it is complete, and completed when it is not; one that
    was logged alone comes below its parent.
    """
    with _alone(folder / REPORT_FILE):
        digest = hashlib.sha256((folder / REPORT_FILE).read_bytes()).hexdigest()
        known = _find(store, REPORT_TAG, digest)
        if (
            known is not None
            and known.data.tags.get(RECORD_TAG) == COMPLETE
            and known.info.status != "RUNNING"
        ):
            if parent_run_id is not None and PARENT_TAG not in known.data.tags:
                store.client.set_tag(known.info.run_id, PARENT_TAG, parent_run_id)
            return str(known.info.run_id)
        tagged = (
            values.tags(report) | mlflow_process.own_tags() | {REPORT_TAG: digest, RECORD_TAG: INCOMPLETE}
        )
        if known is None:
            run_id = _create(store, values.run_name(report), tagged, parent_run_id, values.started_ms(report))
        else:
            run_id = _resume(store, known, tagged, parent_run_id)
        try:
            _log_all(store, run_id, report, folder)
        except BaseException:
            # The store may be what failed; the first error is the one to tell.
            with contextlib.suppress(Exception):
                store.client.set_terminated(run_id, "FAILED")
            raise
        store.client.set_tag(run_id, RECORD_TAG, COMPLETE)
        status = "FINISHED" if report.status == "finished" else "FAILED"
        store.client.set_terminated(run_id, status, values.ended_ms(report))
        return run_id


def open_sweep(store: Store, sweep_id: str, name: str) -> str:
    """The parent run of a sweep, made where it is missing; it stays RUNNING until `close_sweep`."""
    known = _find(store, SWEEP_TAG, sweep_id)
    if known is not None:
        return str(known.info.run_id)
    return _create(store, name, {SWEEP_TAG: sweep_id, **mlflow_process.own_tags()}, None, None)


def reopen_sweep(store: Store, sweep_id: str, name: str, replaced: Sequence[str]) -> None:
    """The parent run of a sweep that goes on becomes this process's own, and loses the runs of the reports
    that are measured anew. replaced: their digests.
    """
    parent = open_sweep(store, sweep_id, name)
    if mlflow_process.FAILURE_TAG in store.client.get_run(parent).data.tags:
        store.client.delete_tag(parent, mlflow_process.FAILURE_TAG)
    for tag, value in mlflow_process.own_tags().items():
        store.client.set_tag(parent, tag, value)
    # Last, as in _resume.
    store.client.update_run(parent, status="RUNNING")
    remove(store, replaced)


def remove(store: Store, digests: Sequence[str]) -> None:
    """Deletes the runs of these reports, and their models: others have taken their places."""
    for digest in digests:
        known = _find(store, REPORT_TAG, digest)
        if known is None:
            continue
        mlflow_entities.delete_models(store, known.info.run_id)
        store.client.delete_run(known.info.run_id)


def close_sweep(
    store: Store,
    parent_run_id: str,
    name: str,
    reports: list[Report],
    run_ids: list[str],
    paths: list[Path],
    failure: str | None,
    view: View = table.USUAL_VIEW,
) -> None:
    """Puts table and chart on the parent, what tells each job apart into its name, its speed-up on its run
    and its model, and ends the parent.

    failure: why the sweep is not complete, or None.
    """
    client = store.client
    merged = repeated.merged(reports)
    variants = [repeated.variant(report.spec) for report in merged]
    speedups = {repeated.variant(row.report.spec): row.speedup for row in table.rows(merged, view)}
    settings = dict(zip(variants, columns.further(merged), strict=True))
    for report, run_id in zip(reports, run_ids, strict=True):
        speedup = speedups[repeated.variant(report.spec)]
        run = client.get_run(run_id)
        told = values.run_name(report, settings[repeated.variant(report.spec)])
        if run.info.run_name != told:
            client.update_run(run_id, name=told)
        if speedup is not None and "speedup" not in run.data.metrics:
            model_id = mlflow_entities.log_model(store, run_id, report)
            client.log_metric(run_id, "speedup", speedup, values.started_ms(report), model_id=model_id)
    parent = client.get_run(parent_run_id)
    timed = [report for report in merged if floors.enough(report)]
    best = max(timed, key=lambda report: report.timing.throughput_sps if report.timing else 0.0, default=None)
    if best is not None and best.timing is not None:
        fastest = best.timing.throughput_sps
        if parent.data.metrics.get("best_throughput_sps") != fastest:
            client.log_metric(parent_run_id, "best_throughput_sps", fastest)
        client.set_tag(parent_run_id, "best", values.run_name(best, settings[repeated.variant(best.spec)]))
    for path in paths:
        client.log_artifact(parent_run_id, str(path))
    client.update_run(parent_run_id, name=values.sweep_name(name, reports))
    notes = "".join(f"\n{note}\n" for note in table.notes(merged, view))
    client.set_tag(
        parent_run_id,
        NOTE_TAG,
        redact(f"{table.title(merged)}\n\n{table.markdown(merged, view)}{notes}")[: values.TAG_LIMIT],
    )
    client.set_tag(parent_run_id, "jobs", str(len(reports)))
    client.set_tag(parent_run_id, "failed", str(sum(r.status != "finished" for r in reports)))
    if failure is not None:
        client.set_tag(parent_run_id, mlflow_process.FAILURE_TAG, failure)
    elif mlflow_process.FAILURE_TAG in parent.data.tags:
        client.delete_tag(parent_run_id, mlflow_process.FAILURE_TAG)
    status = "FINISHED" if failure is None else "FAILED"
    # An end that is already right is not moved to the moment of logging it again.
    if parent.info.status != status:
        client.set_terminated(parent_run_id, status)


def _log_all(store: Store, run_id: str, report: Report, folder: Path) -> None:
    dataset = mlflow_entities.log_dataset(store, run_id, report, folder)
    model_id = mlflow_entities.log_model(store, run_id, report)
    _log_values(store, run_id, report, model_id, dataset)
    mlflow_entities.log_predictions(store, run_id, folder)
    mlflow_entities.log_worst_texts(store, run_id, report)
    for name in ARTIFACTS:
        if (folder / name).is_file():
            store.client.log_artifact(run_id, str(folder / name))
    if (folder / ".hydra").is_dir():
        store.client.log_artifacts(run_id, str(folder / ".hydra"), ".hydra")
    _log_text(store, run_id, "config.json", json.dumps(report.spec.to_plain(), indent=2))


def _log_values(store: Store, run_id: str, report: Report, model_id: str, dataset: Dataset | None) -> None:
    from mlflow.entities import Metric, Param

    at = values.started_ms(report) or int(time.time() * 1000)
    on = {"dataset_name": dataset.name, "dataset_digest": dataset.digest} if dataset is not None else {}
    measured = [Metric(k, v, at, 0, model_id=model_id) for k, v in values.speed_metrics(report).items()]
    measured += [
        Metric(k, v, at, 0, model_id=model_id, **on) for k, v in values.quality_metrics(report).items()
    ]
    chosen = [Param(name, value) for name, value in values.params(report).items()]
    store.client.log_batch(run_id, metrics=measured, params=chosen)


def _log_text(store: Store, run_id: str, name: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(redact(text), encoding="utf-8")
        store.client.log_artifact(run_id, str(path))


def _create(store: Store, name: str, tagged: dict[str, str], parent: str | None, started: int | None) -> str:
    linked = tagged | ({PARENT_TAG: parent} if parent is not None else {})
    run = store.client.create_run(
        store.experiment_id, start_time=started or int(time.time() * 1000), tags=linked, run_name=name
    )
    return str(run.info.run_id)


def _resume(store: Store, known: Any, tagged: dict[str, str], parent: str | None) -> str:
    """Makes an interrupted run this process's own."""
    run_id = str(known.info.run_id)
    if parent is not None and PARENT_TAG not in known.data.tags:
        tagged = tagged | {PARENT_TAG: parent}
    if known.data.tags.get(mlflow_process.FAILURE_TAG) == mlflow_process.GONE:
        store.client.delete_tag(run_id, mlflow_process.FAILURE_TAG)
    for name, value in tagged.items():
        store.client.set_tag(run_id, name, value)
    # Last: a run that is RUNNING under the tag of a process that is gone would be ended by any other harness.
    store.client.update_run(run_id, status="RUNNING")
    return run_id


def _find(store: Store, tag: str, value: str) -> Any:
    runs = store.client.search_runs([store.experiment_id], f"tags.{tag} = '{value}'", max_results=1)
    return runs[0] if runs else None


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time logs a report: two that both find no run would make two."""
    with contextlib.ExitStack() as stack:
        try:
            fcntl.flock(stack.enter_context(file.open("r+b")), fcntl.LOCK_EX)
        except OSError as problem:
            # An archive that nobody can write is logged without the lock.
            if problem.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        yield
