"""Counters of the machine: parsed from known text, judged against thresholds, read for real."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.worker import machine
from harness.worker.machine import Snapshot

STAT = """\
cpu  300 0 200 1000 0 10 20 30 0 0
cpu0 100 5 100 500 40 5 10 10 7 7
cpu1 200 0 100 500 0 5 10 20 0 0
cpu10 900 0 0 0 0 0 0 900 0 0
intr 1 2 3
procs_running 3
"""
QUIET = {"elapsed_s": 10.0, "involuntary_switches": 5.0, "major_faults": 0.0}


def snapshot(**changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "own_cpu_s": 1.0, "busy_cpu_s": 10.0, "steal_s": 0.0, "involuntary_switches": 5, "minor_faults": 100,
        "voluntary_switches": 7, "major_faults": 1,
        "throttle_events": None, "frequency_mhz": None, "runnable": 2, "machine_busy_s": 20.0,
        "machine_cpus": 2, "quota_wait_s": None,
    }  # fmt: skip
    return Snapshot(**(fields | changes))


def test_cpu_times_of_the_cpus_that_may_be_used() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    assert machine.cpu_times(STAT, {0}) == (220 / tick, 10 / tick)
    assert machine.cpu_times(STAT, {0, 1}) == ((220 + 315) / tick, 30 / tick)
    assert machine.cpu_times(STAT, {7}) is None
    assert machine.cpu_times("", {0}) is None
    assert machine.cpu_times(STAT, None) == ((220 + 315 + 900) / tick, (30 + 900) / tick)


def test_interference_is_the_difference() -> None:
    after = snapshot(own_cpu_s=4.0, busy_cpu_s=15.0, steal_s=0.5, involuntary_switches=25, major_faults=4)
    counters = machine.interference(snapshot(), after, 2.0)
    assert counters["own_cpu_s"] == 3.0
    assert counters["others_cpu_s"] == 2.0
    assert counters["steal_s"] == 0.5
    assert (counters["involuntary_switches"], counters["major_faults"], counters["minor_faults"]) == (
        20,
        3,
        0,
    )


def test_what_cannot_be_read_is_absent() -> None:
    counters = machine.interference(snapshot(busy_cpu_s=None), snapshot(), 2.0)
    assert not {"others_cpu_s", "throttle_events", "frequency_mhz_before"} & set(counters)


def test_coarse_ticks_never_make_others_negative() -> None:
    counters = machine.interference(snapshot(), snapshot(own_cpu_s=2.0), 1.0)
    assert counters["others_cpu_s"] == 0.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"steal_s": 0.15, "others_cpu_s": 0.9, "involuntary_switches": 900.0}, None),
        ({"steal_s": 0.5}, "hypervisor"),
        ({"others_cpu_s": 1.5}, "other processes took 8%"),
        ({"involuntary_switches": 2000.0}, "200 involuntary"),
        ({"machine_others_cpu_s": 5.0, "machine_cpus": 4.0}, "12% of the machine's CPU time, on other cores"),
        ({"machine_others_cpu_s": 5.0, "machine_cpus": 64.0}, None),
        ({"quota_wait_s": 1.0}, "CPU limit held it back for 5%"),
        ({"major_faults": 500.0}, "major page faults"),
        ({"throttle_events": 1.0}, "throttling"),
        ({"frequency_mhz_before": 3000.0, "frequency_mhz_after": 2000.0}, "from 3000 to 2000 MHz"),
        ({"frequency_mhz_before": 3000.0, "frequency_mhz_after": 2900.0}, None),
    ],
)
def test_thresholds(changes: dict[str, float], reason: str | None) -> None:
    reasons = machine.noisy_because(QUIET | changes, cpus=2)
    if reason is None:
        assert reasons == ()
    else:
        assert len(reasons) == 1 and reason in reasons[0]


def test_one_burnt_core_of_many_is_enough() -> None:
    (reason,) = machine.noisy_because(QUIET | {"others_cpu_s": 9.0}, cpus=64)
    assert "other processes took 1%" in reason


def test_other_instances_are_no_noise() -> None:
    busy = QUIET | {"machine_others_cpu_s": 10.0, "machine_cpus": 2.0}
    assert machine.noisy_because(busy, cpus=1, alone=False) == ()
    assert len(machine.noisy_because(busy, cpus=1, alone=True)) == 1


def test_the_wait_for_a_containers_quota() -> None:
    assert machine.quota_wait("usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n") == 1.5
    assert machine.quota_wait("usage_usec 5\n") is None


def test_own_work_is_seen_as_own() -> None:
    before = machine.snapshot()
    sum(range(3_000_000))
    counters = machine.interference(before, machine.snapshot(), 1.0)
    assert counters["own_cpu_s"] > 0
    assert counters["minor_faults"] >= 0


def test_peak_memory_after_a_reset() -> None:
    if not machine.reset_peak_memory():
        pytest.skip("this system does not let a process reset its peak memory")
    before = machine.peak_memory_mb()
    # Not from malloc, which may have as much left over from other tests, resident already.
    block = mmap.mmap(-1, 64_000_000)
    np.frombuffer(block, np.uint8)[:] = 1
    during = machine.peak_memory_mb()
    assert before is not None and during is not None
    assert during - before > 0.9 * len(block) / 1e6
    block.close()
    machine.trim_memory()
    assert machine.reset_peak_memory()
    after = machine.peak_memory_mb()
    assert after is not None and after < during - 40


def test_a_system_without_these_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "CPU_FOLDER", tmp_path)
    assert machine.peak_memory_mb() is None
    assert machine.cpu_model() is None
    assert machine.snapshot().busy_cpu_s is None
    assert machine.snapshot().runnable is None
