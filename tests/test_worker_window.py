"""What is read around a measured window, with a process that burns a core beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from harness.worker.window import window


@pytest.fixture
def one_core() -> Iterator[int]:
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)


@pytest.fixture
def burner(one_core: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process on the same core; it inherits the affinity."""
    code = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def test_a_process_that_burns_the_core_makes_a_run_noisy(burner: subprocess.Popen[bytes]) -> None:
    with window(alone=True) as seen:
        work(0.5)
        seen.sequences = 1
    assert any("other processes took" in reason for reason in seen.noisy_because), seen.noisy_because


def test_what_a_window_reads(one_core: int) -> None:
    before = time.monotonic()
    with window(alone=True) as seen:
        work(0.1)
        seen.sequences = 4
    assert before <= seen.began_s and 0.1 <= seen.elapsed_s <= time.monotonic() - before
    assert seen.counters is not None and seen.counters["elapsed_s"] == seen.elapsed_s
    assert seen.observed is not None and (seen.observed.threads, seen.observed.cores) == (1, (one_core,))
    assert (seen.energy.joules is None) == (seen.energy.absent_because is not None)
