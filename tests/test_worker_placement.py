"""Where a window ran, from /proc: read for real, of threads that this test starts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.worker import placement
from harness.worker.placement import Task, allocator, memory_nodes, nodes_of, observe, tasks

NUMA_MAPS = """\
55d0 default file=/usr/bin/python3 mapped=100 N0=100
7f00 default anon=30 dirty=30 N0=10 N1=20
7f10 bind:1 anon=10 dirty=10 N1=10 kernelpagesize_kB=4
7f20 default
"""


def burn(seconds: float) -> None:
    """CPU time without Python's lock, so that two of them really work at once."""
    matrix = np.random.default_rng(0).random((300, 300))
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        np.sort(matrix, axis=None)


def observed_of(*work: Callable[[], None]) -> placement.Observed:
    """What is observed of threads that live until after the window, as those of a backend do.

    Only of these: the process of the tests has others (thread pools, progress bars) that may work meanwhile.
    """
    done, over = threading.Barrier(len(work) + 1), threading.Event()

    def one(part: Callable[[], None]) -> None:
        part()
        done.wait()
        over.wait()

    before = tasks()
    threads = [threading.Thread(target=one, args=[part]) for part in work]
    for thread in threads:
        thread.start()
    done.wait()
    ours = {str(thread.native_id) for thread in threads}
    found = observe(before, {name: task for name, task in tasks().items() if name in ours})
    over.set()
    for thread in threads:
        thread.join()
    assert found is not None
    return found


def test_threads_that_work_are_counted_and_those_that_wait_are_not() -> None:
    found = observed_of(lambda: burn(0.1), lambda: burn(0.1), lambda: None)
    assert found.threads == 2
    assert set(found.cores) == os.sched_getaffinity(0)
    assert found.allocator in ("libc", *placement.ALLOCATORS)
    assert found.memory_allowed


def test_a_thread_that_pins_itself_elsewhere_is_seen() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two CPUs")

    def on(core: int) -> Callable[[], None]:
        def work() -> None:
            os.sched_setaffinity(0, {core})
            burn(0.1)

        return work

    assert observed_of(on(cores[0])).cores == (cores[0],)
    assert observed_of(on(cores[0]), on(cores[1])).cores == (cores[0], cores[1])


def test_only_the_windows_own_work_counts() -> None:
    before = {"1": Task(100.0, (0,)), "2": Task(5.0, (0,)), "3": Task(0.0, (1,))}
    after = {
        "1": Task(100.01, (0,)),
        "2": Task(6.0, (0,)),
        "3": Task(0.06, (1,)),
        "4": Task(0.5, (2,)),
    }
    found = observe(before, after)
    assert found is not None and (found.threads, found.cores) == (3, (0, 1, 2))
    assert observe(after, after) is None and observe({}, {}) is None


def test_pages_of_the_process_by_node() -> None:
    assert memory_nodes(NUMA_MAPS) == {"0": 0.25, "1": 0.75}
    assert memory_nodes("") == {}


def test_nodes_of_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for node, cores in (("node0", "0-3"), ("node1", "4-7"), ("node2", "")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(f"{cores}\n")
    monkeypatch.setattr(placement, "NODES", tmp_path)
    assert (nodes_of([1, 2]), nodes_of([3, 4]), nodes_of([9])) == ((0,), (0, 1), ())


def test_the_allocator_is_the_one_that_is_loaded() -> None:
    assert allocator("7f r-xp /usr/lib/libjemalloc.so.2\n") == "jemalloc"
    assert allocator("7f r-xp /usr/lib/libtcmalloc_minimal.so.4\n") == "tcmalloc"
    assert allocator("7f r-xp /usr/lib/libc.so.6\n") == "libc"
    assert allocator("") is None


def test_a_kernel_without_schedstat_counts_in_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "task/7"
    folder.mkdir(parents=True)
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 30]
    (folder / "stat").write_text(f"7 (a (very) odd name) {' '.join(fields)}\n")
    (folder / "status").write_text("Name:\tx\nCpus_allowed_list:\t0-2\n")
    monkeypatch.setattr(placement, "PROC", tmp_path)
    assert tasks() == {"7": Task(200 / os.sysconf("SC_CLK_TCK"), (0, 1, 2))}
