"""`--dry`: the jobs of a command line, in which settings they differ and how long they will take. It measures
nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from harness.ask.schema import ROOT
from harness.run import expected, plan, resume
from harness.run.job import FINISHED, WRONG_INPUT, judged
from harness.sinks import columns, progress, table
from harness.sinks import console as shown
from harness.values.errors import UserError
from harness.values.report import Report


def of_run(config: DictConfig, console: Console) -> int:
    """Shows the one job of a run. config: Hydra's, before its folder is made. Raises UserError."""
    return _show([plan.of_config(config)], set(), _roots(config), console)


def of_sweep(config: DictConfig, console: Console) -> int:
    """Shows the jobs of a sweep, and which of them resume=true would keep. Raises UserError."""
    going_on = config.resume and resume.choose(config)
    jobs = plan.jobs(config)
    kept = resume.kept(Path(config.hydra.sweep.dir), jobs) if going_on else set()
    return _show(jobs, kept, _roots(config), console)


def _show(jobs: Sequence[plan.Job], kept: set[str], roots: Sequence[Path], console: Console) -> int:
    """Exit status: that of wrong input where each of the jobs would be refused."""
    if not jobs:
        shown.no_jobs([])
        return WRONG_INPUT
    problems = [_problem(job) for job in jobs]
    earlier = expected.reports(roots)
    times = {
        job.number: expected.of(job.spec, earlier)
        for job, problem in zip(jobs, problems, strict=True)
        if problem is None and job.name not in kept
    }
    reports = [Report(job.spec) for job in jobs]
    head, body = _table(jobs, reports)
    for row, job, problem in zip(body, jobs, problems, strict=True):
        told = "kept" if job.name in kept else problem
        row.append(_duration(times[job.number]) if told is None else told)
    shown.listing(console, table.title(reports), [*head, "time"], body)
    console.print(
        _sum(len(jobs), expected.total(times.values())), highlight=False, markup=False, soft_wrap=True
    )
    return WRONG_INPUT if all(problem is not None for problem in problems) else FINISHED


def _table(jobs: Sequence[plan.Job], reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Number, contender, and every setting in which the jobs differ."""
    told = [columns.CONTENDER, *columns.settings(reports)]
    repeated = any(job.spec.repetitions > 1 for job in jobs)
    head = ["job", *(column.title for column in told), *(["repetition"] if repeated else [])]
    rows = [columns.Row(report, None) for report in reports]
    body = [
        [
            progress.place(job.number, len(jobs)).strip("[]"),
            *(column.text(row) for column in told),
            *([str(job.spec.repetition)] if repeated else []),
        ]
        for job, row in zip(jobs, rows, strict=True)
    ]
    return head, body


def _problem(job: plan.Job) -> str | None:
    """Why the job would be refused."""
    try:
        judged(job.spec, job.tracking, job.contender)
    except UserError as problem:
        return f"refused: {problem}"
    return None


def _duration(time: expected.Expected) -> str:
    return progress.duration(time.seconds) if time.whole else f"from {progress.duration(time.seconds)} on"


def _sum(jobs: int, time: expected.Expected) -> str:
    count = "1 job" if jobs == 1 else f"{jobs} jobs"
    if time.whole:
        return f"{count}, about {progress.duration(time.seconds)} one after another. Nothing was measured."
    return (
        f"{count}, at least {progress.duration(time.seconds)} one after another; how long loading and "
        "scoring take is known once something like it was measured here. Nothing was measured."
    )


def _roots(config: DictConfig) -> list[Path]:
    """Where results lie from which the time is taken."""
    usual = [ROOT / "outputs/runs", ROOT / "outputs/sweeps"]
    return list(
        dict.fromkeys([*usual, Path(config.hydra.run.dir).parent, Path(config.hydra.sweep.dir).parent])
    )
