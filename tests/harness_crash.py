"""Starts `python -m harness` with the stub worker in a process of its own, to be killed or interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness_fixtures import STUB

from harness.ask.schema import ROOT

_CODE = """
import functools, sys
from harness import __main__ as command
from harness.run import job, launch
job.launch = functools.partial(launch.launch, worker=sys.argv.pop(1).split("|"))
sys.exit(command.main())
"""


def start(*arguments: str, stub: str = "finish") -> subprocess.Popen[str]:
    """The harness with these arguments; STUB as in tests/stub_worker.py."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, "|".join(STUB), *arguments],
        env=os.environ | {"STUB": stub, "PYTHONPATH": path, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        cwd=ROOT,
        # In the background of a shell SIGINT is ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Returns when the condition holds; fails when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names the spec of the run in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder / "spec.json").encode() in words:
            found.append(int(process.name))
    return found
