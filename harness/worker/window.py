"""What is read before and after a measured window: nothing of it runs inside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.values.report import UNREAD, Energy, Observed
from harness.worker import energy, machine, placement


@dataclass
class Window:
    """Filled when the window ends. began_s, elapsed_s: monotonic clock. sequences: to be set by the caller.

    counters, noisy_because: see harness/worker/machine.py; observed and energy as in
        harness/values/report.py.
    """

    began_s: float = 0.0
    elapsed_s: float = 0.0
    sequences: int = 0
    counters: dict[str, float] | None = None
    noisy_because: tuple[str, ...] = ()
    observed: Observed | None = None
    energy: Energy = UNREAD


@contextmanager
def window(alone: bool) -> Iterator[Window]:
    """Reads the machine around the block. alone: no other instance of the job measures beside this one."""
    result = Window()
    tasks, joules, before = placement.tasks(), energy.counters(), machine.snapshot()
    result.began_s = time.monotonic()
    yield result
    result.elapsed_s = time.monotonic() - result.began_s
    after, drawn = machine.snapshot(), energy.counters()
    result.counters = machine.interference(before, after, result.elapsed_s)
    result.noisy_because = machine.noisy_because(result.counters, len(os.sched_getaffinity(0)), alone)
    result.observed = placement.observe(tasks, placement.tasks())
    result.energy = energy.used(joules, drawn, result.elapsed_s, max(1, result.sequences))
