"""Verdicts on processes: how often they are wrong is simulated, seeded, with noise as machines have it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from harness.judge.floors import Seen
from harness.judge.processes import Comparison, Process, compare, interleaved

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)


def processes(
    medians: np.ndarray | list[float],
    turn: int = 0,
    of: int = 2,
    fastest: np.ndarray | list[float] | None = None,
) -> list[Process]:
    """Processes of `of` variants that take turns, five seconds each."""
    return [
        Process(
            float(p50), float(p50), float(p50), number,
            (BEGIN + timedelta(seconds=5 * (of * number + turn))).isoformat(),
            None if fastest is None else float(fastest[number]),
        )
        for number, p50 in enumerate(medians)
    ]  # fmt: skip


def simulate(slower: float, spread: float, drift: float, bursts: float, tries: int = 100) -> list[Comparison]:
    """Ten rounds a try, in each both variants once. spread: of fresh processes, with the tails of Student's t
    with 4 degrees of freedom; drift: step of the machine's random walk between rounds; bursts: share of
    processes that something else made slower, by 10 % on average.
    """
    random = np.random.default_rng(7)
    found = []
    for _ in range(tries):
        machine = np.cumsum(random.normal(0, drift, 10))
        sides = []
        for turn, factor in enumerate((1.0, 1.0 + slower)):
            own = random.standard_t(4, 10) * spread / np.sqrt(2)
            burst = (random.random(10) < bursts) * random.exponential(0.1, 10)
            undisturbed = 3.8 * factor * np.exp(machine + own / 2)
            sides.append(processes(4 * factor * np.exp(machine + own + burst), turn, fastest=undisturbed))
        found.append(compare(*sides))
    return found


# 19 of 20 and 18 of 20 are to hold in a series of 20 tries, so the rates have to be better than that.
@pytest.mark.parametrize(
    ("spread", "drift", "bursts"),
    [
        (0.005, 0.0, 0.0),
        (0.01, 0.01, 0.0),
        (0.015, 0.0, 0.02),
        (0.005, 0.03, 0.0),
        (0.02, 0.0, 0.0),
        (0.024, 0.01, 0.05),
    ],
)
def test_the_same_build_is_hardly_ever_told_apart(spread: float, drift: float, bursts: float) -> None:
    found = simulate(0.0, spread, drift, bursts)
    assert np.mean([c.verdict != "no difference detected" for c in found]) <= 0.02


@pytest.mark.parametrize(
    ("spread", "drift", "bursts"),
    [(0.01, 0.0, 0.0), (0.015, 0.0, 0.0), (0.02, 0.0, 0.0), (0.01, 0.03, 0.0), (0.01, 0.0, 0.02)],
)
def test_a_build_slowed_down_by_five_percent_is_found(spread: float, drift: float, bursts: float) -> None:
    found = simulate(0.05, spread, drift, bursts)
    assert np.mean([c.verdict == "slower" for c in found]) >= 0.96
    assert np.median([c.ratio for c in found]) == pytest.approx(1 / 1.05, rel=0.01)


def test_it_is_mostly_found_even_where_processes_differ_by_three_percent() -> None:
    found = simulate(0.05, 0.03, 0.0, 0.0)
    assert np.mean([c.verdict == "slower" for c in found]) >= 0.75


def disturbed(slower: float, random: np.random.Generator, turn: int) -> list[Process]:
    """Ten processes whose medians are disturbed by 5 %, their fastest calls by 1 %."""
    noise = 0.05 * random.exponential(1, 10)
    fastest = 4 * (1 + slower) * np.exp(0.01 * random.standard_normal(10))
    return processes(fastest * (1.02 + noise), turn, fastest=fastest)


@pytest.mark.parametrize(
    ("slower", "verdict", "share"), [(0.0, "no difference detected", 0.98), (0.05, "slower", 0.95)]
)
def test_beside_neighbours_the_fastest_calls_decide(slower: float, verdict: str, share: float) -> None:
    random = np.random.default_rng(3)
    found = [compare(disturbed(0, random, 0), disturbed(slower, random, 1)) for _ in range(100)]
    assert np.mean([c.verdict == verdict for c in found]) >= share
    decided = [c for c in found if "the fastest call of each process decided" in c.method]
    assert bool(decided) == (verdict == "slower")


def test_fastest_calls_decide_nothing_against_the_medians() -> None:
    noise = 0.1 * np.sin(np.arange(10))
    base = processes(10 * (1 + noise), fastest=[9.0 - 0.001 * i for i in range(10)])
    other = processes(9.9 * (1 + noise[::-1]), 1, fastest=[9.5 + 0.001 * i for i in range(10)])
    assert compare(base, other).ratio > 1 and compare(base, other).verdict == "no difference detected"


def test_the_interval_covers_the_true_ratio() -> None:
    found = simulate(0.05, 0.015, 0.01, 0.0)
    assert np.mean([c.interval.low <= 1 / 1.05 <= c.interval.high for c in found]) >= 0.96


def test_what_drifts_is_seen_through_only_by_turns() -> None:
    machine = np.linspace(1, 1.5, 12)
    base, slow = processes(machine * 10, 0), processes(machine * 10.5, 1)
    assert compare(base, slow).verdict == "slower" and compare(base, slow).paired
    late = [Process(p.p50_ms, p.low_ms, p.high_ms, p.round, "2031-01-01T00:00:00+00:00") for p in slow]
    assert interleaved(base, late) == []
    assert compare(base, late).verdict == "no difference detected"


def test_how_many_processes_and_rounds_a_test_needs() -> None:
    """What the table in docs/method.md says."""
    sides = {n: (processes([1.0] * n), processes([1.1] * n, 1)) for n in (4, 5, 8, 9)}
    assert [compare(*sides[n]).p_value is None for n in (4, 5)] == [True, False]
    assert [compare(*sides[n]).paired for n in (8, 9)] == [False, True]


def test_rounds_without_times_or_partners_are_no_pairs() -> None:
    base, other = processes([1.0] * 10), processes([1.0] * 10, 1)
    assert len(interleaved(base, other)) == 10
    assert len(interleaved(base[:7], other[3:])) == 4
    assert interleaved([Process(1, 1, 1, 0)], [Process(1, 1, 1, 0)]) == []


@pytest.mark.parametrize(
    ("candidate", "verdict"), [(10.7, "no difference detected"), (11.0, "slower"), (9.1, "faster")]
)
def test_one_process_each_tells_only_large_differences_apart(candidate: float, verdict: str) -> None:
    found = compare([Process(10, 9.99, 10.01)], [Process(candidate, candidate, candidate)])
    assert found.verdict == verdict and found.p_value is None and "2.4%" in found.method


def test_a_process_that_is_open_itself_widens_the_interval() -> None:
    calm = compare([Process(10, 10, 10)], [Process(13, 13, 13)])
    open_one = compare([Process(10, 10, 10)], [Process(13, 9, 13)])
    assert calm.verdict == "slower" and open_one.verdict == "no difference detected"
    assert open_one.interval.high > calm.interval.high


def test_what_is_smaller_than_the_smallest_is_not_called() -> None:
    base = processes(10 + 0.001 * np.arange(10))
    near = processes(10.05 + 0.001 * np.arange(10), 1)
    assert compare(base, near).verdict == "no difference detected"
    assert compare(base, near, smallest=0.002).verdict == "slower"


def test_equal_processes_are_equal() -> None:
    found = compare(processes([5.0] * 10), processes([5.0] * 10, 1))
    assert found.ratio == 1 and found.p_value == 1 and found.verdict == "no difference detected"


def noisy(side: list[Process], but: int = 0) -> list[Process]:
    """The processes as disturbed ones, except for the first `but`."""
    return [dataclasses.replace(p, noisy=number >= but) for number, p in enumerate(side)]


@pytest.mark.parametrize(("disturbed_side", "verdict"), [(0, "slower"), (1, "too disturbed to tell")])
def test_one_process_that_was_disturbed_is_not_called_slower(disturbed_side: int, verdict: str) -> None:
    sides = [[Process(10, 9.9, 10.1, min_ms=9.9)], [Process(20, 19, 21, min_ms=19)]]
    sides[disturbed_side] = noisy(sides[disturbed_side])
    assert compare(*sides).verdict == verdict
    turned = compare(*sides[::-1])
    assert turned.verdict == verdict.replace("slower", "faster")
    assert "disturbed" in turned.method or disturbed_side == 0


def test_of_many_disturbed_processes_the_fastest_calls_have_to_say_the_same() -> None:
    base = processes([10.0 + 0.01 * i for i in range(10)], fastest=[9.5] * 10)
    really = processes([11.0 + 0.01 * i for i in range(10)], 1, fastest=[10.4 + 0.01 * i for i in range(10)])
    only_medians = processes([11.0 + 0.01 * i for i in range(10)], 1, fastest=[9.5] * 10)
    assert compare(base, only_medians).verdict == "slower"
    assert compare(noisy(base), noisy(really)).verdict == "slower"
    found = compare(noisy(base), noisy(only_medians))
    assert found.verdict == "too disturbed to tell" and found.interval is not None
    quiet = compare(base, only_medians).interval
    assert quiet is not None and found.interval.high > quiet.high


def test_a_disturbance_of_one_side_only_speaks_for_nothing_unless_they_took_turns() -> None:
    base = processes([10.0 + 0.01 * i for i in range(10)], fastest=[9.5 + 0.01 * i for i in range(10)])
    slow = [10.0 * p.p50_ms / 9 for p in base], [10.0 * p.p50_ms / 9.5 for p in base]
    in_turn = processes(slow[0], 1, fastest=slow[1])
    later = [dataclasses.replace(p, started_at="2031-01-01T00:00:00+00:00") for p in in_turn]
    assert compare(base, noisy(in_turn)).verdict == "slower"
    assert compare(base, later).verdict == "slower"
    assert compare(base, noisy(later)).verdict == "too disturbed to tell"
    assert compare(noisy(base), noisy(later)).verdict == "slower"
    assert compare(base, noisy(later, but=7)).verdict == "slower"


def test_few_processes_know_little_of_their_own_spread() -> None:
    """Three of one program that spread by a fifth: a normal interval would take that for the truth."""
    base = [Process(p50, p50, p50) for p50 in (10.0, 12.0, 8.0)]
    other = [Process(p50, p50, p50) for p50 in (15.0, 18.0, 13.0)]
    found = compare(base, other)
    assert found.verdict == "no difference detected" and "as far as so few show it" in found.method
    assert found.interval is not None and found.interval.high / found.interval.low > 2.5


def test_what_each_of_few_repetitions_leaves_open_counts() -> None:
    calm = [Process(10, 10, 10)] * 3, [Process(11.5, 11.5, 11.5)] * 3
    wide = [Process(10, 8, 12)] * 3, [Process(11.5, 9, 14)] * 3
    assert compare(*calm).verdict == "slower" and compare(*wide).verdict == "no difference detected"


def test_too_few_calls_come_before_everything_else() -> None:
    one = [dataclasses.replace(p, seen=Seen(99, 1.0)) for p in processes([1.0] * 10)]
    other = [dataclasses.replace(p, seen=Seen(1, 1.0)) for p in processes([5.0] * 10, 1)]
    found = compare(one, other)
    assert (found.verdict, found.interval, found.p_value) == ("too few calls to tell", None, None)
    assert found.ratio == pytest.approx(0.2) and "only 1 call" in found.method
