"""One job, from the composed configuration to its record. It returns a status and never raises an error:
Hydra would drop the rest of a sweep's bookkeeping, see harness/run/sweep.py."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness.ask import inputs
from harness.ask.check import check, resolve
from harness.ask.schema import ROOT, Tracking, to_spec, to_tracking, to_view
from harness.run import earlier, host, peers, unfinished, watching
from harness.run.launch import launch
from harness.run.peers import NotInstalled
from harness.sinks import console as shown
from harness.sinks import files, mlflow_store, progress, record, table
from harness.values import reserve
from harness.values.errors import UserError
from harness.values.plain import write_json
from harness.values.redact import hide, redact, redact_files
from harness.values.report import CONFIG_FAILURE, NOT_INSTALLED, REPORT_FILE, Failure, Report
from harness.values.spec import RunSpec

FINISHED, FAILED, WRONG_INPUT = 0, 1, 2
REFERENCES = "references"


@dataclass(frozen=True)
class Place:
    """Where a job is measured. sweep: folder of the sweep that it is of. settings: Hydra's, of this job."""

    folder: Path
    sweep: Path | None
    settings: Any

    def progress(self, sweep: record.Sweep | None) -> str:
        """`[3/8]`, or nothing for a run of its own."""
        return "" if sweep is None else progress.place(int(self.settings.job.num), sweep.total)

    @property
    def references(self) -> Path | None:
        """Where the jobs of a sweep keep what each of them would compute again."""
        return None if self.sweep is None else self.sweep / REFERENCES

    def name(self, spec: RunSpec, sweep: record.Sweep | None) -> str:
        """What is measured, for the console."""
        told = watching.name(spec, sweep, list(self.settings.overrides.task))
        return f"{self.progress(sweep)} {told}".lstrip()


def run(cfg: DictConfig) -> int:
    """Measures, writes and logs one job; 0 finished, 1 failed, 2 wrong configuration."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    sweep_folder = Path(settings.sweep.dir) if settings.mode == RunMode.MULTIRUN else None
    console = Console()
    try:
        redact_files(folder / ".hydra")
        if sweep_folder is not None:
            redact_files(sweep_folder)
        return _run(cfg, Place(folder, sweep_folder, settings), console)
    except KeyboardInterrupt:
        if sweep_folder is None and (folder / REPORT_FILE).is_file():
            files.write_run(Report.read(folder), folder)
            not_logged(console, "interrupted", folder)
        raise
    except (UserError, OmegaConfBaseException) as problem:
        shown.error(str(problem))
        if sweep_folder is not None:
            with contextlib.suppress(OSError):  # then the job counts as one that failed
                record.refuse(folder, str(problem))
        return WRONG_INPUT
    except OSError as problem:
        shown.error(reserve.told(problem))
        unfinished.abandon(folder, Failure("disk", reserve.told(problem)))
        return FAILED
    except Exception as problem:
        shown.error(f"{type(problem).__name__}: {problem}")
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            print(redact(traceback.format_exc()), file=sys.stderr)
        return FAILED


def _run(cfg: DictConfig, place: Place, console: Console) -> int:
    folder, sweep_folder = place.folder, place.sweep
    tracking, spec = to_tracking(cfg), resolve(to_spec(cfg))
    sweep = record.Sweep.read(sweep_folder) if sweep_folder is not None else None
    try:
        spec = judged(spec, tracking, place.settings.runtime.choices.get("contender"))
        write_json(folder / record.TRACKING_FILE, hidden(tracking))
        kept = None if sweep is None else _kept(place, spec, sweep)
        shown.announce(console, folder, place.name(spec, sweep) + ("" if kept is None else ", kept"))
        _settle_what_was_killed(folder, sweep_folder)
        report = kept or launch(spec, folder, references=place.references)
    except UserError as problem:
        _record_refusal(spec, problem, folder)
        raise
    try:
        if kept is None or not (folder / files.MARKDOWN_FILE).is_file():
            files.write_run(report, folder)
    except OSError as problem:  # report.json is there, and says it all
        shown.error(reserve.told(problem))
    measured = report.timing is not None or report.accuracy is not None
    if report.failure is not None and (sweep_folder is not None or not measured):
        shown.error(report.failure.message)
    if sweep_folder is not None and sweep is not None:
        left = watching.left(sweep_folder, sweep)
        shown.came_of(console, place.progress(sweep), progress.result(report), left)
        return _log_job(folder, tracking, sweep_folder, report, console)
    if measured:
        shown.summary(console, [report], to_view(cfg))
    return _log_single(folder, tracking, report, console)


def _kept(place: Place, spec: RunSpec, sweep: record.Sweep) -> Report | None:
    """What an earlier start of the sweep has measured of this job, if that is to be kept."""
    if place.sweep is None or os.path.relpath(place.folder, place.sweep) not in sweep.kept:
        return None
    report = Report.read(place.folder)
    return report if report.spec.to_plain() == spec.to_plain() else None


def judged(spec: RunSpec, tracking: Tracking, contender: str | None) -> RunSpec:
    """The checked spec; UserError, or NotInstalled, for everything that can be told without a worker."""
    spec = check(spec)
    _check_contender(spec, contender)
    host.plan(spec.host, frozenset(os.sched_getaffinity(0)))
    peers.interpreter(spec.backend)
    inputs.judge(spec)
    if tracking.kind == "mlflow":
        mlflow_store.refuse_deleted(tracking.uri, tracking.experiment)
    return spec


def refuse_run(cfg: DictConfig) -> None:
    """Judges a run before Hydra makes its folder, so that a refused one leaves none.

    cfg: the whole configuration, with Hydra's. Where the folder holds an earlier run, that is replaced by the
    refusal: nobody shall take it for what was asked for now.

    Raises:
        UserError: it is refused, or the folder holds something that is not the harness's to overwrite.
    """
    folder = Path(cfg.hydra.run.dir)
    task = OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name != "hydra"])
    earlier.refuse_foreign(folder)
    tracking, spec = to_tracking(task), resolve(to_spec(task))
    table.check(to_view(task))
    try:
        judged(spec, tracking, cfg.hydra.runtime.choices.get("contender"))
    except UserError as problem:
        # A run that goes on there is another harness's, which settles it.
        if earlier.is_run(folder) and not (folder / unfinished.RUNNING_FILE).is_file():
            _record_refusal(spec, problem, folder)
        raise


def _record_refusal(spec: RunSpec, problem: UserError, folder: Path) -> None:
    kind = NOT_INSTALLED if isinstance(problem, NotInstalled) else CONFIG_FAILURE
    earlier.remove(folder)
    Report(spec, "failed", failure=Failure(kind, str(problem))).write(folder)


def _status(report: Report) -> int:
    if report.status == "finished":
        return FINISHED
    return WRONG_INPUT if report.wrong_input else FAILED


def _log_single(folder: Path, tracking: Tracking, report: Report, console: Console) -> int:
    status = _status(report)
    store = tracking.uri if tracking.kind == "mlflow" else None
    if tracking.kind == "mlflow":
        try:
            record.log_run(folder, tracking)
        except UserError as problem:
            store, status = None, FAILED
            not_logged(console, str(problem), folder)
    shown.next_steps(console, folder, store)
    return status


def _log_job(folder: Path, tracking: Tracking, sweep_folder: Path, report: Report, console: Console) -> int:
    """Below the sweep's parent; what fails here is tried once more when the sweep ends, and told then."""
    sweep = record.Sweep.read(sweep_folder)
    if tracking.kind == "mlflow" and sweep.problem is None:
        try:
            record.log_run(folder, tracking, sweep)
        except UserError as problem:
            print(f"not yet logged: {redact(str(problem))}", file=sys.stderr)
    return _status(report)


def _settle_what_was_killed(folder: Path, sweep_folder: Path | None) -> None:
    """Runs of harnesses that were killed, beside this one and in the usual places."""
    beside = (
        unfinished.marked(folder.parent, 1)
        if sweep_folder is None
        else unfinished.marked(sweep_folder.parent, 2)
    )
    # Those of harness.compare --commits lie in a folder for each commit.
    places = (("outputs/runs", 1), ("outputs/sweeps", 2), ("outputs/sweeps", 3))
    usual = [path for place, depth in places for path in unfinished.marked(ROOT / place, depth)]
    for path in unfinished.settle_all(dict.fromkeys([*beside, *usual])):
        with contextlib.suppress(OSError, ValueError):
            files.write_run(Report.read(path), path)


def _check_contender(spec: RunSpec, contender: str | None) -> None:
    if contender is not None and contender != spec.contender:
        raise UserError(
            "contender", contender, f"is contradicted by backend and precision, which say {spec.contender}",
            "Set either the contender or backend and precision",
        )  # fmt: skip


def hidden(tracking: Tracking) -> Tracking:
    """The same without credentials, fit to be written; this process and those it starts still know them."""
    return dataclasses.replace(tracking, uri=hide(tracking.uri) if tracking.uri is not None else None)


def not_logged(console: Console, message: str, folder: Path) -> None:
    """Says that results are kept although they could not be logged, and how to log them later."""
    shown.error(message)
    place = quote(str(shown.nearby(folder)))
    console.print(
        f"The results are kept; log them later with: python -m harness.log {place}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
