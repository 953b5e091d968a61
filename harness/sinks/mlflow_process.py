"""Whose an unfinished run is: each names the process that logs it, and one whose process is gone is ended.

Only runs of this machine are judged: of another machine's processes nothing is known here.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOST_TAG = "host"
PROCESS_TAG = "process"
FAILURE_TAG = "failure"
GONE = "killed: the process that logged this run is gone; python -m harness.log <folder> completes it"
PROC = Path("/proc")


def own_tags() -> dict[str, str]:
    """`host` and `process` of the calling process."""
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: _identity(os.getpid(), _start_of(os.getpid()))}


def is_gone(process: str) -> bool:
    """Whether the process that a `process` tag of this host names is surely no more.

    That is: another boot of the same machine, or this boot without a process of that number and start time.
    """
    theirs = dict(part.split("=", 1) for part in process.split() if "=" in part)
    ours = dict(part.split("=", 1) for part in _identity(os.getpid(), None).split())
    if not theirs.get("pid", "").isdigit() or theirs.get("machine") != ours.get("machine"):
        return False
    if theirs.get("boot") != ours.get("boot"):
        return True
    if theirs.get("pid_namespace") != ours.get("pid_namespace"):
        return False  # a container's numbers mean nothing outside of it
    return theirs.get("started") != _start_of(int(theirs["pid"]))


def end_runs_of_gone_processes(client: MlflowClient) -> list[str]:
    """Sets runs that this machine left RUNNING to FAILED, in every experiment; returns their ids."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
    condition = f"attributes.status = 'RUNNING' and tags.{HOST_TAG} = '{socket.gethostname()}'"
    ended = []
    for run in client.search_runs(experiments, condition) if experiments else []:
        if is_gone(run.data.tags.get(PROCESS_TAG, "")):
            client.set_tag(run.info.run_id, FAILURE_TAG, GONE)
            client.set_terminated(run.info.run_id, "FAILED")
            ended.append(str(run.info.run_id))
    return ended


def _identity(pid: int, started: str | None) -> str:
    parts = {
        "machine": _text(Path("/etc/machine-id")),
        "boot": _text(PROC / "sys/kernel/random/boot_id"),
        "pid_namespace": os.readlink(PROC / "self/ns/pid"),
        "pid": str(pid),
        "started": started,
    }
    return " ".join(f"{name}={value}" for name, value in parts.items() if value)


def _start_of(pid: int) -> str | None:
    """Start time of a living process, in clock ticks since boot; None where there is none. See proc(5)."""
    line = _text(PROC / str(pid) / "stat")
    if line is None:
        return None
    # The second field is the command's name in brackets, and may itself hold spaces and brackets.
    fields = line.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in ("Z", "X") else started


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
