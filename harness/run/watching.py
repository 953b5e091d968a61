"""What a sweep says of its jobs while it goes on: a name that tells them apart, the time that is left.

Jobs may run in processes of their own, so all of it is read from the sweep's folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harness.run import unfinished
from harness.sinks import progress, record
from harness.values.report import REPORT_FILE
from harness.values.spec import RunSpec

# What a job's name tells already.
TOLD = ("contender", "precision", "backend", "backend.graph", "model", "batch", "batch.size", "batch.seq_len")


def name(spec: RunSpec, sweep: record.Sweep | None = None, words: Sequence[str] = ()) -> str:
    """A job in one line. words: its overrides, of which those that the sweep goes through are shown."""
    told = f"{spec.contender}, {spec.model.name}, batch {spec.batch.size} x {spec.batch.seq_len}"
    swept = set(sweep.swept) - set(TOLD) if sweep is not None else set()
    return ", ".join([told, *(_typed(word) for word in words if word.lstrip("+").partition("=")[0] in swept)])


def _typed(word: str) -> str:
    """As one would type it: Hydra has `true` as Python's True."""
    name, _, value = word.partition("=")
    return f"{name}={value.lower() if value in ('True', 'False') else value}"


def left(folder: Path, sweep: record.Sweep, now: float | None = None) -> str | None:
    """How long the jobs of the sweep in `folder` that are not over will take; None where nobody can tell, or
    where none is left. now: seconds since 1970.
    """
    if sweep.total is None or sweep.began is None:
        return None
    kept = {folder / name for name in sweep.kept}  # they take no time
    done = sum(_is_over(job, sweep.began) for job in record.job_folders(folder) if job not in kept)
    elapsed = (time.time() if now is None else now) - sweep.began
    seconds = progress.seconds_left(elapsed, done, sweep.total - len(kept) - done)
    return progress.duration(seconds) if seconds else None


def _is_over(job: Path, began: float) -> bool:
    """Whether a job has come to its end since the sweep began, whatever its end was."""
    if (job / unfinished.RUNNING_FILE).is_file():
        return False
    ends = [job / REPORT_FILE, job / record.REFUSED_FILE]
    return any(file.is_file() and file.stat().st_mtime >= began for file in ends)
