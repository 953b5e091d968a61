"""Results of an earlier run or sweep in the folder of a new one: nothing of them may pass for the new one's.

A run's are removed, since `report.json` would be overwritten anyway; a sweep's are moved aside as a whole.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from pathlib import Path

from harness import unfinished
from harness.errors import UserError
from harness.report import PREDICTIONS_FILE, REPORT_FILE, SAMPLES_FILE
from harness.sinks import files

BARRIER = "barrier"
_RESULTS = (REPORT_FILE, SAMPLES_FILE, PREDICTIONS_FILE, files.MARKDOWN_FILE, files.LATENCY_FILE)


def remove(folder: Path) -> None:
    """Removes what an earlier run has measured from `folder`; what else is there stays."""
    for name in _RESULTS:
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*"):
        if path.is_dir() and (path.name == BARRIER or re.fullmatch(r"instance-\d+", path.name)):
            shutil.rmtree(path)


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
