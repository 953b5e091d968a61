"""Runs one job in fresh processes and always comes back with a Report.

The parent blocks in poll() on process descriptors: a parent that wakes up to look would be measured too.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.run import earlier, host, own_op, peers, unfinished
from harness.run.instances import merge
from harness.values import reserve
from harness.values.report import DISK_FULL, SPEC_FILE, Failure, Report
from harness.values.spec import RunSpec

ROOT = Path(__file__).resolve().parents[2]
WORKER = ("-m", "harness.worker")
FATAL = {signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS}
GRACE_SECONDS = 3.0
# poll() takes no more: an int of milliseconds.
LONGEST_POLL_MS = 2**31 - 1
INTERRUPTED = Failure("interrupted", "The job was interrupted by the user.")
# Loaded here, because a child between fork and exec must not load anything.
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
SYS_SET_MEMPOLICY, MPOL_BIND = 238, 2  # x86-64


def launch(
    spec: RunSpec, folder: Path, worker: Sequence[str] | None = None, references: Path | None = None
) -> Report:
    """Measures `spec` and leaves `report.json` in `folder`; a job that goes wrong is a failed report.

    Args:
        spec: a checked spec.
        folder: where spec.json, report.json and the samples go; results of an earlier run there are removed.
        worker: command that takes the path of a spec.json, instead of harness.worker in the backend's own
            interpreter; tests put another one here.
        references: folder in which the jobs of a sweep keep the reference's answers for each other.
    Raises:
        NotInstalled: the backend has no environment here.
        UserError: the host settings do not fit this machine, backend.python is no program, or the op would be
            that of another checkout.
        OSError: `folder` cannot be written.
        KeyboardInterrupt: after the interrupted job has been stopped and its report written.
    """
    python = peers.interpreter(spec.backend)
    if spec.backend.name == "op" and worker is None and python == sys.executable:
        own_op.check(ROOT, os.environ)
    shared = ("--references", str(references)) if references is not None else ()
    worker = (*(worker or (python, *WORKER)), *shared)
    placements = host.plan(spec.host, frozenset(os.sched_getaffinity(0)))
    folder.mkdir(parents=True, exist_ok=True)
    earlier.remove(folder)
    unfinished.mark(folder)
    spec.write(folder / SPEC_FILE)
    try:
        reserve.hold(folder)
        begin = time.monotonic()
        report = _measured(spec, folder, placements, worker)
        report = dataclasses.replace(report, wall_s=time.monotonic() - begin)
    except KeyboardInterrupt:
        # Where several instances measured, or none had begun, there is no report yet.
        unfinished.abandon(folder, INTERRUPTED)
        raise
    finally:
        reserve.release(folder)
    report.write(folder)
    unfinished.clear(folder)
    return report


def _measured(spec: RunSpec, folder: Path, placements: list[host.Placement], worker: Sequence[str]) -> Report:
    if len(placements) == 1:
        return _run([spec], [folder], placements, worker)[0]
    barrier = folder / earlier.BARRIER
    barrier.mkdir()
    specs = [_instance(spec, index, barrier) for index in range(len(placements))]
    folders = [folder / f"instance-{index}" for index in range(len(placements))]
    reports = _run(specs, folders, placements, worker)
    shutil.rmtree(barrier)
    return merge(spec, reports, folders, folder)


def _instance(spec: RunSpec, index: int, barrier: Path) -> RunSpec:
    # Accuracy does not depend on the neighbours: once is enough.
    measure = dataclasses.replace(spec.measure, accuracy=spec.measure.accuracy and index == 0)
    return dataclasses.replace(spec, instance=index, barrier=str(barrier), measure=measure)


def _run(
    specs: list[RunSpec], folders: list[Path], placements: list[host.Placement], worker: Sequence[str]
) -> list[Report]:
    processes: list[subprocess.Popen[bytes]] = []
    ended: Failure | None = None
    try:
        for spec, folder, placement in zip(specs, folders, placements, strict=True):
            processes.append(_start(spec, folder, placement, worker))
        if not _wait(processes, specs[0].host.timeout_seconds):
            seconds = specs[0].host.timeout_seconds
            ended = Failure(
                "timeout",
                f"host.timeout_seconds={seconds:g}: the job ran out of wall-clock time and was stopped. "
                "Give it more, or measure less.",
            )
    except KeyboardInterrupt:
        ended = INTERRUPTED
        raise
    finally:
        stopped = [_stop(process) for process in processes]
        beside = Failure("stopped", "Stopped because another instance of the job had failed.")
        reports = [
            _outcome(spec, folder, process.returncode, (ended or beside) if was_stopped else None)
            for spec, folder, process, was_stopped in zip(specs, folders, processes, stopped, strict=False)
        ]
        reports = [_placed(report, where) for report, where in zip(reports, placements, strict=False)]
        for report, folder in zip(reports, folders, strict=False):
            reserve.written(folder, functools.partial(report.write, folder))
    return reports


def _placed(report: Report, placement: host.Placement) -> Report:
    """The report, failed if it was not measured where it was to be."""
    if report.status != "finished" or report.timing is None or report.timing.observed is None:
        return report
    problem = host.misplaced(report.spec.host, placement, report.timing.observed)
    if problem is None:
        return report
    return dataclasses.replace(report, status="failed", failure=Failure("placement", str(problem), "measure"))


def _start(
    spec: RunSpec, folder: Path, placement: host.Placement, worker: Sequence[str]
) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(folder / SPEC_FILE)
    command = [*worker, str(folder / SPEC_FILE)]
    with _affinity(placement.cores):
        return subprocess.Popen(
            command,
            env=host.environment(placement, dict(os.environ), ROOT),
            stdin=subprocess.DEVNULL,
            # A session of its own: stopping it stops what it started, and Ctrl-C reaches it only through us.
            start_new_session=True,
            preexec_fn=functools.partial(_settle_in, os.getpid(), placement.numa),
        )


def _settle_in(parent: int, numa: int | None) -> None:
    """In the child, before it becomes the worker: it ends with its parent, and takes memory from one node."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    if numa is not None:
        # Where this is not allowed, pages come from the node of the core that touches them first, which is
        # the same one as long as it has some; what came of it is read back from /proc, see host.misplaced.
        mask = (ctypes.c_ulong * (numa // 64 + 1))()
        mask[numa // 64] = 1 << numa % 64
        LIBC.syscall(SYS_SET_MEMPOLICY, MPOL_BIND, mask, ctypes.c_ulong(64 * len(mask) + 1))


@contextlib.contextmanager
def _affinity(cores: tuple[int, ...] | None) -> Iterator[None]:
    """A child inherits the affinity of the thread that starts it: right from its first instruction."""
    before = os.sched_getaffinity(0)
    try:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        yield
    finally:
        os.sched_setaffinity(0, before)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Blocks until all have ended, or one failed (the others would wait for it), or time is up (False)."""
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        poller, running = select.poll(), {}
        for process in processes:
            descriptor = os.pidfd_open(process.pid)
            stack.callback(os.close, descriptor)
            poller.register(descriptor, select.POLLIN)
            running[descriptor] = process
        while running:
            left_ms = max(0.0, deadline - time.monotonic()) * 1000
            ready = poller.poll(min(left_ms, LONGEST_POLL_MS))
            if not ready and left_ms <= LONGEST_POLL_MS:
                return False
            for descriptor, _ in ready:
                poller.unregister(descriptor)
                if running.pop(descriptor).wait() != 0:
                    return True
    return True


def _stop(process: subprocess.Popen[bytes]) -> bool:
    """Ends the process and everything in its session; False when it had already ended by itself."""
    if process.poll() is not None:
        return False
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def _outcome(spec: RunSpec, folder: Path, code: int, ended: Failure | None) -> Report:
    """What the worker left on disk, as a finished or a failed report."""
    try:
        report = Report.read(folder)
    except (FileNotFoundError, ValueError, TypeError):
        report = Report(spec=spec)
    if report.status == "finished" and code == 0:
        return report
    failure = report.failure if report.status == "failed" and report.failure else None
    failure = failure or ended or _failure_of_exit(code, report.phase)
    return dataclasses.replace(report, status="failed", failure=failure)


def _failure_of_exit(code: int, phase: str | None) -> Failure:
    during = f" during phase {phase}" if phase else " before its first phase"
    if code == DISK_FULL:
        return Failure(
            "disk", f"No space was left to write the result{during}; what was written is kept.", phase
        )
    if code >= 0:
        return Failure(
            "crashed", f"The worker process ended with exit status {code}{during}, without a report.", phase
        )
    number = signal.Signals(-code)
    if number in FATAL:
        return Failure(
            "crashed",
            f"The worker process crashed with {number.name}{during}. "
            "BERT_OP_MAX_ISA=portable tells whether a kernel of this CPU's tier is to blame.",
            phase,
        )
    hint = " The kernel kills by SIGKILL when memory runs out: try a smaller batch." if number == 9 else ""
    return Failure("killed", f"The worker process was killed by {number.name}{during}.{hint}", phase)
