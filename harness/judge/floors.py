"""How much a measured process has to have seen before anything is concluded from it: calls, and time.

As in MLPerf's LoadGen there is a floor of both. Below them a ratio says what happened to be going on just
then, so the answer is TOO_FEW: no interval, no verdict, no speed-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.values.report import Report

TOO_FEW: Final = "too few calls to tell"
# Of each process. The least of which the slowest and the fastest together hold the median with the confidence
# that each of two looks needs at 97.5 %: 2 / 2^8 = 0.8 % is less than 1.25 %, and 2 / 2^7 is not.
MIN_CALLS = 8
# Of each process, in seconds. A disturbed machine shows in counters with ticks of 10 ms: within half a second
# one tick is 2 %, and what happens once in a second is more likely seen than not.
MIN_SECONDS = 0.5


@dataclass(frozen=True)
class Seen:
    """What one process measured: so many calls, in so many seconds."""

    calls: int
    seconds: float


def calls_needed(confidence: float) -> int:
    """Calls of a process of which the median has an order-statistic interval at `confidence`, MIN_CALLS at
    least.
    """
    return max(MIN_CALLS, math.ceil(1 - math.log2(1 - confidence)))


def shortage(seen: Sequence[Seen], calls: int = MIN_CALLS, seconds: float = MIN_SECONDS) -> str | None:
    """What is missing, as a clause, of the process that saw least; None where all of them saw enough."""
    few = min((one for one in seen if one.calls < calls), key=lambda one: one.calls, default=None)
    if few is not None:
        made = f"{few.calls} call{'s' if few.calls != 1 else ''}"
        return f"a process made only {made}, and {calls} are needed"
    brief = min((one for one in seen if one.seconds < seconds), key=lambda one: one.seconds, default=None)
    if brief is not None:
        return f"the calls of a process took only {brief.seconds:.2g} s, and {seconds:g} s are needed"
    return None


def seen_by(report: Report) -> list[Seen]:
    """Of each process behind a report with a timing; of one that pools several, and does not say what each
    had, what they had on average.
    """
    timing = report.timing
    if timing is None:
        return []
    if report.repeated is None:
        return [Seen(timing.count, timing.elapsed_s)]
    measured = report.repeated.measured
    average = Seen(timing.count // max(1, len(measured)), timing.elapsed_s / max(1, len(measured)))
    return [
        average if one.calls is None or one.elapsed_s is None else Seen(one.calls, one.elapsed_s)
        for one in measured
    ]


def enough(report: Report) -> bool:
    """Whether the report has a timing that something can be concluded from.

    Of a corpus it takes every batch: the longest passages come first, and alone they are slower.
    """
    calls = MIN_CALLS if report.retrieval is None else max(MIN_CALLS, report.retrieval.batches or 0)
    return report.timing is not None and shortage(seen_by(report), calls) is None


def remedy(calls: int = MIN_CALLS) -> str:
    """How to see enough, a sentence."""
    return (
        f"Measure at least {calls} calls and {MIN_SECONDS:g} s in each process: "
        "a longer run_time.seconds, or run_time.iterations."
    )
