"""Logs the folder of a run or of a sweep to MLflow: right after measuring, or again at any later time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from harness.ask.schema import Tracking
from harness.judge import baseline, pairs, repeated
from harness.judge.variants import Subject
from harness.sinks import files, mlflow_sink
from harness.sinks.mlflow_store import open_store, told
from harness.values.errors import UserError
from harness.values.plain import from_plain, read_json, write_json
from harness.values.redact import redact
from harness.values.report import REPORT_FILE, Report
from harness.values.view import View

SWEEP_FILE = "sweep.json"
TRACKING_FILE = "tracking.json"
# In the folder of a sweep's job whose settings make no spec, and so no report either.
REFUSED_FILE = "refused.json"


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep before its first job. tracking.uri is redacted.

    problem: why the store could not be opened then; the jobs do not try again, but the sweep's end does.
    complete: at its end, whether Hydra came through; None while it goes on, and for ever if it was killed.
    total: how many jobs there will be, where that is known. swept: the names of what it goes through.
    began: seconds since 1970, of the last start. owner: host and process that carry it out.
    resumed: whether it goes on after it was stopped. kept: folders of the jobs that had finished then.
    replaced: digests of the reports that are measured anew. view: what its table is to show.
    """

    sweep_id: str
    name: str
    tracking: Tracking
    problem: str | None = None
    complete: bool | None = None
    total: int | None = None
    swept: tuple[str, ...] = ()
    began: float | None = None
    owner: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    kept: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    view: View = field(default_factory=View)

    @staticmethod
    def read(folder: Path) -> Sweep:
        """Reads sweep.json of a sweep's folder."""
        return from_plain(Sweep, read_json(folder / SWEEP_FILE))

    def write(self, folder: Path) -> None:
        """Writes sweep.json."""
        write_json(folder / SWEEP_FILE, self)


def job_folders(folder: Path) -> list[Path]:
    """Folders of a sweep's jobs in the order of their numbers, whether or not they have a report."""
    found = [path.parent for path in folder.glob("*/.hydra")]
    return sorted(found, key=lambda path: (not path.name.isdigit(), path.name.zfill(8)))


def results(folder: Path) -> list[tuple[Report, Path]]:
    """The reports of a run's or a sweep's folder with their own folders; jobs without a report are left out.

    Raises:
        UserError: the run has no report, or one of another version.
    """
    if (folder / SWEEP_FILE).is_file():
        return [(_report(job), job) for job in job_folders(folder) if (job / REPORT_FILE).is_file()]
    return [(_report(folder), folder)]


def refuse(folder: Path, problem: str) -> None:
    """Notes why a job of a sweep could not begin, for the sweep's end, which may be in another process."""
    if not (folder / REPORT_FILE).is_file():
        write_json(folder / REFUSED_FILE, {"problem": redact(problem)})


def refusal(folder: Path) -> str | None:
    """Why nothing of the job in `folder` could be measured; None where a worker was started."""
    if (folder / REPORT_FILE).is_file():
        report = _report(folder)
        return report.failure.message if report.failure is not None and report.refused else None
    return str(read_json(folder / REFUSED_FILE)["problem"]) if (folder / REFUSED_FILE).is_file() else None


def _report(folder: Path) -> Report:
    try:
        return Report.read(folder)
    except FileNotFoundError:
        raise UserError(
            "folder", str(folder), f"has no {REPORT_FILE}: nothing of it was measured", "Measure it again"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise _of_another_version(folder / REPORT_FILE, problem) from problem


def _of_another_version(file: Path, problem: Exception) -> UserError:
    return UserError(
        "folder", str(file.parent), f"its {file.name} cannot be read ({problem})",
        "Log it with the version of the harness that measured it, or measure again",
    )  # fmt: skip


def log_run(folder: Path, tracking: Tracking, sweep: Sweep | None = None) -> None:
    """Logs the run in `folder`, below the parent of its sweep if it has one.

    Raises:
        UserError: the report cannot be read, or the store cannot be used.
    """
    report = _report(folder)
    store = open_store(tracking.uri, tracking.experiment)
    with told(store.uri):
        parent = mlflow_sink.open_sweep(store, sweep.sweep_id, sweep.name) if sweep is not None else None
        mlflow_sink.log_run(store, report, folder, parent)


def log_sweep(folder: Path, tracking: Tracking) -> None:
    """Logs what is not yet logged of a sweep, with its table and chart, and ends its parent run.

    The parent is FAILED when a job failed, or when the sweep was interrupted or killed.

    Raises:
        UserError: a report cannot be read, or the store cannot be used.
        OSError: the table cannot be written into `folder`.
    """
    sweep = Sweep.read(folder)
    jobs = results(folder)
    reports = [report for report, _ in jobs]
    paths = files.write_sweep(repeated.merged(reports), folder, sweep.view) if reports else []
    store = open_store(tracking.uri, tracking.experiment)
    with told(store.uri):
        parent = mlflow_sink.open_sweep(store, sweep.sweep_id, sweep.name)
        if all(report.refused for report in reports):  # nothing ran, nothing is to be seen
            store.client.delete_run(parent)
            return
        mlflow_sink.remove(store, sweep.replaced)
        run_ids = [mlflow_sink.log_run(store, report, job, parent) for report, job in jobs]
        for run_id, found in zip(run_ids, verdicts(jobs, sweep.view.baseline), strict=True):
            if found is not None:
                store.client.set_tag(run_id, "verdict", found)
        mlflow_sink.close_sweep(
            store, parent, sweep.name, reports, run_ids, paths, _failure(sweep, reports), sweep.view
        )


def end_sweep(folder: Path, complete: bool) -> None:
    """Notes in sweep.json that the sweep is over. complete: False when it was interrupted."""
    dataclasses.replace(Sweep.read(folder), complete=complete).write(folder)


def _failure(sweep: Sweep, reports: list[Report]) -> str | None:
    if sweep.complete is None:
        return "killed: the sweep did not come to its end"
    if not sweep.complete:
        return "interrupted: the sweep was stopped before its end"
    failed = sum(report.status != "finished" and not report.not_installed for report in reports)
    return f"{failed} of {len(reports)} jobs failed" if failed else None


def verdicts(jobs: list[tuple[Report, Path]], chosen: str | None = None) -> list[str | None]:
    """Of each job, with its repetitions, against its baseline: one of processes.Verdict, `not comparable`, or
    None where there is nothing to compare.
    """
    variants = repeated.merged([report for report, _ in jobs])
    against = {
        repeated.variant(one.spec): _verdict(one, baseline.of(one, variants, chosen)) for one in variants
    }
    return [against[repeated.variant(report.spec)] for report, _ in jobs]


def _verdict(report: Report, other: Report | None) -> str | None:
    if report.timing is None or other is None or other is report:
        return None
    return pairs.compare(Subject("", other), Subject("", report)).verdict


def recorded_tracking(folder: Path) -> Tracking:
    """Where the folder was to be logged when it was measured.

    Raises:
        UserError: it holds no run and no sweep, or one of another version.
    """
    for name in (SWEEP_FILE, TRACKING_FILE):
        if (folder / name).is_file():
            try:
                return Sweep.read(folder).tracking if name == SWEEP_FILE else _tracking(folder / name)
            except (ValueError, TypeError) as problem:
                raise _of_another_version(folder / name, problem) from problem
    raise UserError(
        "folder", str(folder), "holds no run and no sweep",
        "Name a folder below outputs/runs or outputs/sweeps",
    )  # fmt: skip


def _tracking(file: Path) -> Tracking:
    return from_plain(Tracking, read_json(file))
