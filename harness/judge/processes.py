"""Whether the processes of one variant are faster than those of another: pure functions of their medians.

The samples of one process are not independent: they share its memory layout and the state of the machine. Two
processes of the same program can therefore differ by more than thousands of their samples would allow, so
what is compared is one number for each process, its median latency. How, depends on how many processes there
are:

- Enough for a rank test: Mann-Whitney on the medians. Where the two variants took turns, Wilcoxon's
  signed-rank test on the differences within the rounds speaks as well, which sees through a machine that
  drifts; the smaller of the two p-values then counts twice (Bonferroni). The interval of the ratio of medians
  is bootstrapped over processes, or over rounds where they took turns. What else runs on a machine makes
  calls slower, never faster, so the fastest call of a process is disturbed least: where the medians of a
  disturbed machine leave it open, the same tests of these decide.
- Fewer: their number cannot tell how much processes differ, so a spread of BETWEEN_PROCESSES is assumed, or
  that of those few by Student's t, if that reaches further; on top of it comes each process's own interval.

Before all that every process has to have seen enough (harness/judge/floors.py), or nothing is told at all.
And what disturbs a machine makes calls slower, so nothing is called slower because of processes that were
disturbed (`noisy`): of few processes never, of many only where their fastest calls say the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from scipy import special

from harness.judge import floors
from harness.judge.floors import TOO_FEW
from harness.values import estimates
from harness.values.estimates import Interval

# High enough that at most one of fifty equal pairs is called different, low enough that ten rounds find a
# loss of 5 % where processes spread by 2 %: tests/test_compare_processes.py simulates both.
CONFIDENCE = 0.975
SMALLEST = 0.01
# Relative standard deviation of the medians of fresh processes of one program, as seen on shared machines.
BETWEEN_PROCESSES = 0.024
RESAMPLES = 2000

Verdict = Literal[
    "faster", "slower", "no difference detected", "too few calls to tell", "too disturbed to tell"
]
UNDETECTED: Verdict = "no difference detected"
TOO_DISTURBED: Verdict = "too disturbed to tell"
# Two variants that did not take turns met the same machine only if it was disturbed about as often for both.
ONE_SIDED = 0.5


@dataclass(frozen=True)
class Process:
    """One measured process. low_ms, high_ms: how far its own samples leave the median open, in ms.

    round: its number in a sweep with repetitions. started_at: ISO 8601. min_ms: its fastest call. seen: how
    much it measured. Each is None where unknown. noisy: whether it was disturbed.
    """

    p50_ms: float
    low_ms: float
    high_ms: float
    round: int | None = None
    started_at: str | None = None
    min_ms: float | None = None
    seen: floors.Seen | None = None
    noisy: bool = False


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline; ratio: baseline's median latency / candidate's, above 1 for a faster one.

    interval: of the ratio, None where too few calls support one. p_value: None where the number of processes
    supports no test. method: how it was decided, or what was missing. paired: whether the rounds of an
    interleaved sweep were compared one by one.
    """

    ratio: float
    interval: Interval | None
    p_value: float | None
    verdict: Verdict
    method: str
    paired: bool


def compare(
    baseline: Sequence[Process],
    candidate: Sequence[Process],
    *,
    confidence: float = CONFIDENCE,
    smallest: float = SMALLEST,
    seed: int = 0,
) -> Comparison:
    """Compares the latencies of two variants, of at least one process each.

    A difference is called when the interval of the ratio excludes 1, the test (where there is one) rejects
    equality, and the ratio is off 1 by more than `smallest`: with many repetitions even where a program
    happens to lie in memory is significant, and means nothing. Where the medians leave it open, the fastest
    calls may decide in their direction; each of the two looks then has half of 1 - confidence to be wrong.
    """
    one, other = ([process.p50_ms for process in side] for side in (baseline, candidate))
    each = (1 + confidence) / 2  # there are two looks, and a false alarm in either is one
    ratio = estimates.median(one) / estimates.median(other)
    seen = [process.seen for process in (*baseline, *candidate) if process.seen is not None]
    missing = floors.shortage(seen, floors.calls_needed(each))
    if missing is not None:
        return Comparison(ratio, None, None, TOO_FEW, missing, False)
    if 2 / math.comb(len(one) + len(other), len(one)) >= 1 - each:
        return _of_few(baseline, candidate, ratio, confidence, smallest)
    rounds = interleaved(baseline, candidate)
    medians = _tested(one, other, [(a.p50_ms, b.p50_ms) for a, b in rounds], each, smallest, seed)
    method = f"Mann-Whitney on the medians of {len(one)} and {len(other)} processes"
    if medians.paired:
        method += f", and Wilcoxon's signed ranks of {len(rounds)} rounds in which they took turns"
    fastest = _fastest(baseline, candidate, rounds, each, smallest, seed)
    medians = dataclasses.replace(medians, method=method)
    if fastest is not None and medians.verdict == UNDETECTED and fastest.verdict == _direction(ratio):
        assert fastest.interval is not None
        method += (
            f"; these left it open, and the same tests of the fastest call of each process decided: ratio "
            f"{fastest.ratio:.3f} ({fastest.interval.low:.3f} .. {fastest.interval.high:.3f})"
        )
        medians = dataclasses.replace(medians, verdict=fastest.verdict, method=method)
    return _unless_disturbed(medians, baseline, candidate, fastest)


def _of_few(
    baseline: Sequence[Process],
    candidate: Sequence[Process],
    ratio: float,
    confidence: float,
    smallest: float,
) -> Comparison:
    """By an interval alone, since so few processes support no test."""
    one, other = ([process.p50_ms for process in side] for side in (baseline, candidate))
    reach, spread = _reach(one, other, confidence)
    interval = _assumed(baseline, candidate, ratio, reach)
    method = (
        f"{spread} between processes, because {len(one)} and {len(other)} are too few for a test; "
        "repetitions=10 would find smaller differences"
    )
    found = Comparison(ratio, interval, None, _verdict(ratio, interval, smallest), method, False)
    return _unless_disturbed(found, baseline, candidate, None)


def _unless_disturbed(
    found: Comparison, baseline: Sequence[Process], candidate: Sequence[Process], fastest: Comparison | None
) -> Comparison:
    """`found`, or TOO_DISTURBED where the side that seems slower was disturbed and nothing else confirms it.

    fastest: the comparison of the fastest calls, if there is one; its interval then widens that of the
    medians.
    """
    if found.verdict not in ("faster", "slower"):
        return found
    seems_slower, quicker = (baseline, candidate) if found.verdict == "faster" else (candidate, baseline)
    slow, quick = (sum(process.noisy for process in side) / len(side) for side in (seems_slower, quicker))
    one_sided = not found.paired and slow - quick > ONE_SIDED
    confirmed = fastest is not None and fastest.verdict == found.verdict
    if slow == 0 or (confirmed and not one_sided):
        return found
    interval = found.interval
    if interval is not None and fastest is not None and fastest.interval is not None:
        low, high = min(interval.low, fastest.interval.low), max(interval.high, fastest.interval.high)
        interval = Interval(low, high)
    side = "baseline" if found.verdict == "faster" else "candidate"
    method = f"{found.method}; so the {side} seems slower, but it was disturbed, which makes calls slower"
    return dataclasses.replace(found, verdict=TOO_DISTURBED, interval=interval, method=method)


def _fastest(
    baseline: Sequence[Process],
    candidate: Sequence[Process],
    rounds: list[tuple[Process, Process]],
    confidence: float,
    smallest: float,
    seed: int,
) -> Comparison | None:
    """The fastest calls compared; None where not all processes know theirs."""
    one, other = (
        [process.min_ms for process in side if process.min_ms is not None] for side in (baseline, candidate)
    )
    if len(one) < len(baseline) or len(other) < len(candidate):
        return None
    pairs = [(a.min_ms, b.min_ms) for a, b in rounds if a.min_ms is not None and b.min_ms is not None]
    return _tested(one, other, pairs, confidence, smallest, seed)


def _tested(
    one: Sequence[float],
    other: Sequence[float],
    rounds: list[tuple[float, float]],
    confidence: float,
    smallest: float,
    seed: int,
) -> Comparison:
    """Ratio, interval and test of one number for each process; `rounds`: those of them that took turns."""
    # Imported late: it takes a second, and most commands compare nothing.
    from scipy import stats

    alpha = 1 - confidence
    p_value = float(stats.mannwhitneyu(one, other, alternative="two-sided").pvalue)
    paired = 4 * 0.5 ** len(rounds) < alpha  # the smallest p-value that the signed ranks of as many can give
    if paired:
        logs = np.log(rounds)
        ranks = float(stats.wilcoxon(logs[:, 0] - logs[:, 1]).pvalue) if np.ptp(logs, axis=1).any() else 1.0
        p_value = min(1.0, 2 * min(p_value, ranks))
        interval = _over_rounds(np.exp(logs), confidence, seed)
    else:
        interval = estimates.bootstrap_ratio_of_medians(
            one, other, confidence=confidence, resamples=RESAMPLES, seed=seed
        )
    ratio = estimates.median(one) / estimates.median(other)
    verdict = _verdict(ratio, interval, smallest) if p_value < alpha else UNDETECTED
    return Comparison(ratio, interval, p_value, verdict, "", paired)


def interleaved(baseline: Sequence[Process], candidate: Sequence[Process]) -> list[tuple[Process, Process]]:
    """The pairs of the rounds that both have, if they really took turns: every round began after all of the
    one before. Otherwise none, for then the partners of a pair have nothing in common.
    """
    first, second = ({p.round: p for p in side if p.round is not None} for side in (baseline, candidate))
    pairs = [(first[number], second[number]) for number in sorted(first.keys() & second.keys())]
    times: list[tuple[datetime, datetime]] = []
    for pair in pairs:
        starts = [datetime.fromisoformat(p.started_at) for p in pair if p.started_at is not None]
        if len(starts) < 2:
            return []
        times.append((min(starts), max(starts)))
    in_turn = all(before[1] < after[0] for before, after in itertools.pairwise(times))
    return pairs if in_turn else []


def _verdict(ratio: float, interval: Interval, smallest: float) -> Verdict:
    if interval.low > 1 and ratio > 1 + smallest:
        return "faster"
    if interval.high < 1 and 1 / ratio > 1 + smallest:
        return "slower"
    return UNDETECTED


def _direction(ratio: float) -> Verdict:
    return "faster" if ratio > 1 else "slower"


def _reach(one: Sequence[float], other: Sequence[float], confidence: float) -> tuple[float, str]:
    """How far the log of the ratio of medians may be off, and by which spread, in words.

    Few processes know little of their own spread: Student's t reaches the further, the fewer there are.
    """
    share = math.sqrt(1 / len(one) + 1 / len(other))
    tail = (1 + confidence) / 2
    assumed = float(special.ndtri(tail)) * BETWEEN_PROCESSES * share
    freedom = len(one) + len(other) - 2
    logs = [np.log(side) for side in (one, other)]
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in logs)
    spread = math.sqrt(squares / freedom) if freedom > 0 else 0.0
    seen = float(special.stdtrit(freedom, tail)) * spread * share if freedom > 0 else 0.0
    if seen <= assumed:
        return assumed, f"an assumed spread of {BETWEEN_PROCESSES:.1%}"
    return seen, f"the spread of {spread:.1%}, as far as so few show it,"


def _assumed(
    baseline: Sequence[Process], candidate: Sequence[Process], ratio: float, reach: float
) -> Interval:
    """The ratio, off by `reach` of its log, widened by what the samples of each process leave open."""
    down = estimates.median([p.low_ms / p.p50_ms for p in baseline])
    down *= estimates.median([p.p50_ms / p.high_ms for p in candidate])
    up = estimates.median([p.high_ms / p.p50_ms for p in baseline])
    up *= estimates.median([p.p50_ms / p.low_ms for p in candidate])
    return Interval(low=ratio * down * math.exp(-reach), high=ratio * up * math.exp(reach))


def _over_rounds(medians: np.ndarray, confidence: float, seed: int) -> Interval:
    """Percentile bootstrap of the ratio of medians, whole rounds drawn. medians: (rounds, 2) in ms."""
    random = np.random.default_rng(seed)
    draws = medians[random.integers(0, len(medians), (RESAMPLES, len(medians)))]
    middles = np.median(draws, axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(middles[:, 0] / middles[:, 1], [tail, 100 - tail])
    return Interval(low=float(low), high=float(high))
