"""Results of an earlier run or sweep in the folder of a new one: nothing of them may pass for the new one's.

A run's are removed, since `report.json` would be overwritten anyway; a sweep's are moved aside as a whole.
What is not the harness's is left alone: a folder with a file of a name that it would write is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from pathlib import Path

from harness.run import unfinished
from harness.sinks import files, record
from harness.values.errors import UserError
from harness.values.plain import read_json
from harness.values.report import PREDICTIONS_FILE, REPORT_FILE, SAMPLES_FILE, SPEC_FILE
from harness.values.reserve import RESERVE_FILE

BARRIER = "barrier"
HYDRA_FOLDER, HYDRA_FILE = ".hydra", "multirun.yaml"
# All variants of a sweep, the repetitions of each together, as one record that is complete by itself.
RESULTS_FILE = "results.json"
_RESULTS = (REPORT_FILE, SAMPLES_FILE, PREDICTIONS_FILE, files.MARKDOWN_FILE, files.LATENCY_FILE)
_OF_RUN = (*_RESULTS, SPEC_FILE, RESERVE_FILE, record.TRACKING_FILE, unfinished.RUNNING_FILE)
_OF_SWEEP = (
    record.SWEEP_FILE, RESULTS_FILE, HYDRA_FILE, files.SWEEP_CHART, files.TRADEOFF_CHART,
    *(f"{files.SWEEP_TABLE}.{ending}" for ending in ("md", "csv", "html")),
)  # fmt: skip
# What a job leaves that was refused: nothing of it was measured.
_OF_REFUSED = (REPORT_FILE, files.MARKDOWN_FILE, record.REFUSED_FILE, record.TRACKING_FILE)
# By these a file shows that the harness wrote it.
_MARKS = {
    REPORT_FILE: {"spec", "status"}, SPEC_FILE: {"model", "precision", "batch"},
    record.TRACKING_FILE: {"kind", "uri", "experiment"}, unfinished.RUNNING_FILE: {"host", "process"},
    record.SWEEP_FILE: {"sweep_id", "tracking"}, record.REFUSED_FILE: {"problem"},
}  # fmt: skip


def remove(folder: Path) -> None:
    """Removes what an earlier run has measured from `folder`; what else is there stays."""
    for name in _RESULTS:
        (folder / name).unlink(missing_ok=True)
    for path in _folders_of_instances(folder):
        shutil.rmtree(path)


def _folders_of_instances(folder: Path) -> list[Path]:
    names = re.compile(rf"{BARRIER}|instance-\d+")
    return [path for path in folder.glob("*") if path.is_dir() and names.fullmatch(path.name)]


def move_aside(folder: Path, marker: str) -> Path | None:
    """Renames `folder` if it holds an earlier sweep: `<folder>-<time of that sweep>`. Returns its new name.

    marker: the file that every sweep has. A folder in which no job began is left where it is: there is
    nothing to keep, and nothing to mistake.

    Raises:
        UserError: the earlier sweep is still going on, or its folder cannot be renamed.
    """
    if not (folder / marker).is_file() or not any(folder.glob("*/.hydra")):
        return None
    for run in unfinished.marked(folder, 1):
        unfinished.settle(run)
    ended = time.localtime((folder / marker).stat().st_mtime)
    here = Path(os.path.abspath(folder))
    stem = f"{here.name}-{time.strftime('%Y-%m-%d_%H-%M-%S', ended)}"
    names = (here.with_name(stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    try:
        if Path.cwd().is_relative_to(folder.resolve()):
            raise OSError("it is the current directory")  # which would move as well
        here.rename(aside)
    except OSError as problem:
        raise UserError(
            "hydra.sweep.dir", str(folder),
            f"holds an earlier sweep that cannot be moved aside ({problem.strerror or problem})",
            "Choose another folder, or move what is in it",
        ) from problem  # fmt: skip
    return aside


def is_run(folder: Path) -> bool:
    """Whether the harness has measured in `folder`, or was about to."""
    return any(_is_ours(folder / name) for name in (*_OF_RUN, record.REFUSED_FILE) if name in _MARKS)


def refuse_foreign(folder: Path, setting: str = "hydra.run.dir") -> None:
    """Raises UserError where a run in `folder` would overwrite or remove something that no run wrote."""
    if is_run(folder):
        return
    there = [name for name in _OF_RUN if os.path.lexists(folder / name)]
    there += [path.name for path in _folders_of_instances(folder)]
    _refuse(folder, setting, there)


def refuse_foreign_sweep(folder: Path) -> None:
    """Raises UserError where a sweep in `folder`, or one of its jobs, would do so."""
    if not _is_ours(folder / record.SWEEP_FILE):
        _refuse(folder, "hydra.sweep.dir", [name for name in _OF_SWEEP if os.path.lexists(folder / name)])
        for job in sorted(folder.glob("*")):
            if job.name.isdigit() and job.is_dir():
                refuse_foreign(job, "hydra.sweep.dir")


def _refuse(folder: Path, setting: str, there: list[str]) -> None:
    if there:
        raise UserError(
            setting, str(folder),
            f"holds {', '.join(there)}, which would be overwritten and is not from the harness",
            "Choose another folder, or move it away",
        )  # fmt: skip


def _is_ours(file: Path) -> bool:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and _MARKS[file.name] <= set(found)


def undo_sweep(folder: Path) -> None:
    """Removes what a sweep wrote of which no job could begin, and its folder, unless there is more in it."""
    for job in record.job_folders(folder):
        _remove_hydra(job)
        _remove(job, _OF_REFUSED)
    _remove(folder, _OF_SWEEP)


def _remove_hydra(job: Path) -> None:
    _remove(job / HYDRA_FOLDER, ("config.yaml", "hydra.yaml", "overrides.yaml"))


def _remove(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
