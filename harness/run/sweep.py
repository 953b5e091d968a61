"""A sweep around its jobs: the parent run before the first, table and chart after the last.

Hydra calls `on_multirun_end` only when no job raised, and turns an exception in a callback into a warning.
So the callback only opens the sweep, and `finish` is called by the command line whatever happened in between.
The two meet in the sweep's folder, which also works when a launcher ran the jobs in other processes.
"""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness.ask.composing import Told, no_place, paragraph
from harness.ask.schema import Tracking, to_tracking, to_view
from harness.judge import baseline
from harness.judge.variants import frozen, of_runs
from harness.run import dry, earlier, plan, repetitions, resume, side_by_side
from harness.run.job import FAILED, FINISHED, WRONG_INPUT, hidden, not_logged, refuse_run
from harness.sinks import console as shown
from harness.sinks import files, mlflow_sink, record, table
from harness.sinks.mlflow_process import own_tags
from harness.sinks.mlflow_store import open_store, refuse_deleted, told
from harness.values import reserve
from harness.values.errors import UserError
from harness.values.plain import write_json
from harness.values.redact import redact_files
from harness.values.report import REPORT_FILE, Report
from harness.values.view import View

VARIABLE = "BERT_OP_SWEEP"
# Where submitit keeps what its jobs print: there, nobody has seen yet why a job was refused.
ELSEWHERE = ".submitit"


class SweepCallback(Callback):
    """Judges a run and opens a sweep; named in conf/config.yaml."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuses what cannot be measured before Hydra makes a folder for it."""
        console = Console()
        try:
            if config.resume:
                remedy = "Add -m and what to go through, or leave it out"
                raise UserError("resume", True, "a run of its own has nothing to go on with", remedy)
            if config.baseline is not None:
                told = "a run of its own is compared with nothing"
                raise UserError("baseline", config.baseline, told, "Add -m and the baseline's settings")
            if config.dry:
                raise Told(dry.of_run(config, console))
            refuse_run(config)
        except (UserError, OmegaConfBaseException) as problem:
            shown.error(str(problem))
            raise Told(WRONG_INPUT) from None
        except OSError as problem:
            shown.error(no_place(problem, config.hydra.run.dir))
            raise Told(WRONG_INPUT) from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes sweep.json and opens the parent run, so that concurrent jobs meet a store that is ready."""
        console = Console()
        repetitions.expand(config)
        try:  # Hydra would make a warning of an error, and go on
            folder = Path(config.hydra.sweep.dir)
            side_by_side.arrange(config)
            view = _view(config)
            if config.dry:
                raise Told(dry.of_sweep(config, console))
            tracking = to_tracking(config)
            if tracking.kind == "mlflow":
                refuse_deleted(tracking.uri, tracking.experiment)
            earlier.refuse_foreign_sweep(folder)
            sweep, aside = _resumed(config, tracking), None
            if sweep is None:
                aside = earlier.move_aside(folder, record.SWEEP_FILE)
                sweep = _new(config, tracking)
            sweep = dataclasses.replace(sweep, view=view)
            folder = Path(config.hydra.sweep.dir)
            sweep.write(folder)
        except (UserError, OmegaConfBaseException) as problem:
            shown.error(str(problem))
            raise Told(WRONG_INPUT) from None
        except HydraException as problem:
            shown.error(paragraph(str(problem)).removeprefix("error: "))
            raise Told(WRONG_INPUT) from None
        except OSError as problem:
            shown.error(no_place(problem, config.hydra.sweep.dir))
            raise Told(WRONG_INPUT) from None
        os.environ[VARIABLE] = str(folder)  # only now is there something to finish
        if aside is not None:
            shown.moved(console, folder, aside)
        if config.resume:
            shown.goes_on(console, folder, len(sweep.kept), sweep.total if sweep.resumed else None)
        if tracking.kind != "mlflow":
            return
        # Until it is open: who is interrupted meanwhile does not wait for it once more at the end.
        dataclasses.replace(sweep, problem="interrupted while the store was opened").write(folder)
        try:
            store = open_store(tracking.uri, tracking.experiment)
            with told(store.uri):
                if sweep.resumed:
                    mlflow_sink.reopen_sweep(store, sweep.sweep_id, sweep.name, sweep.replaced)
                else:
                    mlflow_sink.open_sweep(store, sweep.sweep_id, sweep.name)
            sweep.write(folder)
        except UserError as problem:
            shown.error(f"{problem} Measuring goes on.")
            dataclasses.replace(sweep, problem=str(problem)).write(folder)


def _view(config: DictConfig) -> View:
    """What the sweep's table is to show. UserError for an unknown column, or a baseline that is no job."""
    view = to_view(config)
    table.check(view)
    if view.baseline is not None:
        baseline.wanted(view.baseline)
        if plan.overrides(config) is not None:
            baseline.check(view.baseline, [each.spec for each in plan.jobs(config)])
    return view


def _new(config: DictConfig, tracking: Tracking) -> record.Sweep:
    choice = config.hydra.runtime.choices.get("experiment")
    return record.Sweep(
        uuid.uuid4().hex, choice or "sweep", hidden(tracking), **_foreseen(config), began=time.time(),
        owner=own_tags(),
    )  # fmt: skip


def _resumed(config: DictConfig, tracking: Tracking) -> record.Sweep | None:
    """The sweep that `resume=true` goes on with, its folder that of `config`; None where a new one begins."""
    if not config.resume or not resume.choose(config):
        return None
    jobs = plan.jobs(config)
    left = resume.take_up(Path(config.hydra.sweep.dir), jobs, hidden(tracking))
    return left.goes_on(len(jobs), plan.swept(config))


def _foreseen(config: DictConfig) -> dict[str, Any]:
    """How many jobs a sweep will have, and what it goes through; nothing where Hydra will refuse it."""
    try:
        words = plan.overrides(config)
        return {"total": None if words is None else len(words), "swept": tuple(plan.swept(config))}
    except HydraException:
        return {}


def finish(folder: Path, complete: bool, console: Console) -> int:
    """Ends the sweep in `folder` with its table, chart and parent run; returns the exit status.

    complete: whether Hydra came to its end; an interrupted sweep keeps what is measured.
    """
    try:
        return _finish(folder, complete, console)
    except OSError as problem:
        not_logged(console, reserve.told(problem), folder)
        return FAILED


def _finish(folder: Path, complete: bool, console: Console) -> int:
    record.end_sweep(folder, complete)
    sweep = record.Sweep.read(folder)
    redact_files(folder)
    jobs = record.job_folders(folder)
    if not jobs and complete:
        shown.no_jobs(side_by_side.empty(_overrides(folder)))
    reported = [job for job in jobs if (job / REPORT_FILE).is_file()]
    reports = [Report.read(job) for job in reported]
    for job in jobs:
        if (job / REPORT_FILE).is_file() and not (job / files.MARKDOWN_FILE).is_file():
            files.write_run(Report.read(job), job)
    refusals = {job: problem for job in jobs if (problem := record.refusal(job)) is not None}
    measured = len(refusals) < len(jobs)
    if reports:
        variants = of_runs(list(zip(reports, reported, strict=True)), folder.name)
        write_json(folder / earlier.RESULTS_FILE, frozen(variants))
        merged = [variant.report for variant in variants]
        files.write_sweep(merged, folder, sweep.view)
        if measured:
            shown.summary(console, merged, sweep.view)
    if (folder / ELSEWHERE).is_dir():
        in_no_table = [problem for job, problem in refusals.items() if not (measured and job in reported)]
        for problem in dict.fromkeys(in_no_table):
            shown.error(problem)
    status = _status(reports, len(refusals), len(jobs)) if jobs or not complete else WRONG_INPUT
    if jobs and not measured:
        shown.nothing_measured(console, len(jobs))
    store = None
    if sweep.tracking.kind == "mlflow" and (measured or sweep.problem is None):
        try:
            record.log_sweep(folder, sweep.tracking)
            store = sweep.tracking.uri
        except UserError as problem:
            status = FAILED
            not_logged(console, str(problem), folder)
    if measured:
        shown.next_steps(console, folder, store)
    else:  # why has been shown, and there is nothing else to keep
        earlier.undo_sweep(folder)
    return status


def _overrides(folder: Path) -> list[str]:
    """What was typed, as Hydra noted it."""
    file = folder / earlier.HYDRA_FILE
    return [str(each) for each in OmegaConf.load(file).hydra.overrides.task] if file.is_file() else []


def _status(reports: list[Report], refused: int, jobs: int) -> int:
    """What is not installed does not fail a sweep in which something else was measured: its table says so.

    refused: how many of the `jobs` had wrong settings or are not installed, with or without a report.
    """
    if jobs and refused == jobs:
        return WRONG_INPUT
    started = [report for report in reports if not report.refused]
    failed = [report for report in started if report.status != "finished"]
    if not jobs or len(started) + refused < jobs or not all(report.wrong_input for report in failed):
        return FAILED
    not_installed = sum(report.not_installed for report in reports)
    return WRONG_INPUT if failed or refused > not_installed else FINISHED
