"""Runs whose harness was killed: their folders say so at the next start.

A run's folder has `running.json` while a harness works on it. Where that process is gone, the report on disk
becomes a failed one that keeps what was measured. Its MLflow runs: harness/sinks/mlflow_process.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterable
from pathlib import Path

from harness.sinks.mlflow_process import HOST_TAG, PROCESS_TAG, is_gone, own_tags
from harness.values.errors import UserError
from harness.values.plain import read_json, write_json
from harness.values.report import SPEC_FILE, Failure, Report
from harness.values.reserve import release
from harness.values.spec import RunSpec

RUNNING_FILE = "running.json"


def mark(folder: Path) -> None:
    """Says that this process works on the run in `folder`."""
    write_json(folder / RUNNING_FILE, own_tags())


def clear(folder: Path) -> None:
    """Says that the report in `folder` is as complete as it will be."""
    (folder / RUNNING_FILE).unlink(missing_ok=True)


def abandon(folder: Path, failure: Failure) -> None:
    """Makes this process's own run in `folder` a failed one, unless it had finished.

    On a full disk that is left to the next start.
    """
    if (folder / RUNNING_FILE).is_file():
        with contextlib.suppress(OSError):
            _fail(folder, failure)


def settle(folder: Path) -> None:
    """Makes the run in `folder` a failed one if its harness was killed; leaves any other as it is.

    Raises:
        UserError: the run is still going on, or may be, on another machine.
    """
    if not (folder / RUNNING_FILE).is_file():
        return
    owner = read_json(folder / RUNNING_FILE)
    if owner.get(HOST_TAG) != socket.gethostname() or not is_gone(owner.get(PROCESS_TAG, "")):
        raise UserError(
            "folder", str(folder), f"is still measured on {owner.get(HOST_TAG)}, as far as is known here",
            f"Wait for it; if that machine was switched off, remove {RUNNING_FILE} from the folder",
        )  # fmt: skip
    _fail(folder, None)


def settle_all(folders: Iterable[Path]) -> list[Path]:
    """Settles the runs in `folders`, except for those that go on; returns those that were settled."""
    settled = []
    for folder in folders:
        # What cannot be read or written belongs to somebody else, or the disk is full: the next start tries.
        with contextlib.suppress(UserError, OSError, ValueError, TypeError):
            settle(folder)
            settled.append(folder)
    return settled


def marked(root: Path, depth: int) -> list[Path]:
    """Folders `depth` levels below `root` that are marked as running."""
    return sorted(path.parent for path in root.glob("*/" * depth + RUNNING_FILE))


def _fail(folder: Path, failure: Failure | None) -> None:
    report = _left(folder)
    if report is not None and report.status != "finished":
        why = report.failure or failure or Failure("killed", _message(report), report.phase)
        dataclasses.replace(report, status="failed", failure=why).write(folder)
    release(folder)
    clear(folder)


def _left(folder: Path) -> Report | None:
    """The report on disk; where there is none, what the first of several instances had, or only the spec."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return Report.read(folder)
    try:
        spec = RunSpec.read(folder / SPEC_FILE)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        first = Report.read(folder / "instance-0")
        # Its timing alone is not that of all of them.
        return dataclasses.replace(first, spec=spec, status="running", failure=None, timing=None)
    return Report(spec)


def _message(report: Report) -> str:
    during = f" during phase {report.phase}" if report.phase else ""
    return f"The harness was killed{during}; what was measured before is kept."
