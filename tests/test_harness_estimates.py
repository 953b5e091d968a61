"""Known answers for harness/values/estimates.py: by hand, from tables, or from scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest

from harness.values import estimates


def test_median_of_odd_and_even_counts() -> None:
    assert estimates.median([5, 1, 3]) == 3
    assert estimates.median([4, 1, 3, 2]) == 2.5


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, float("nan")], [float("inf")]])
def test_a_series_must_be_flat_finite_and_not_empty(bad: object) -> None:
    with pytest.raises(ValueError, match=r"samples?"):
        estimates.summarize(bad)  # type: ignore[arg-type]


# Textbook ranks of the 95 % order-statistic interval (X_(k), X_(n + 1 - k)).
@pytest.mark.parametrize(("count", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (25, 8), (100, 40)])
def test_median_interval_ranks(count: int, rank: int) -> None:
    interval = estimates.median_interval(np.arange(1, count + 1))
    assert interval == estimates.Interval(low=rank, high=count + 1 - rank)


def test_median_interval_needs_six_samples() -> None:
    assert estimates.median_interval([1, 2, 3, 4, 5]) is None


def test_median_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        interval = estimates.median_interval(random.exponential(size=21))
        assert interval is not None
        hits += interval.low <= np.log(2) <= interval.high
    assert hits >= 0.93 * 400


@pytest.mark.parametrize(("percent", "gate"), [(90, 64), (95, 130), (99, 662)])
def test_percentiles_are_absent_below_their_gate(percent: int, gate: int) -> None:
    assert estimates.percentile(np.arange(gate - 1), percent) is None
    at_gate = estimates.percentile(np.arange(1, gate + 1), percent)
    assert at_gate == np.ceil(percent * gate / 100)


@pytest.mark.parametrize("percent", [90, 95, 99])
def test_a_gate_is_the_smallest_count_with_two_samples_beyond(percent: int) -> None:
    def chance_of_fewer(count: int) -> float:
        inside, beyond = percent / 100, 1 - percent / 100
        return inside**count + count * beyond * inside ** (count - 1)

    gate = estimates.PERCENTILE_GATES[percent]
    assert chance_of_fewer(gate) <= 0.01 < chance_of_fewer(gate - 1)


def test_a_percentile_without_a_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample gate"):
        estimates.percentile(np.arange(10_000), 42)


def test_tukey_counts_both_sides_and_drops_nothing() -> None:
    samples = [*range(10, 30), 100, -100]
    summary = estimates.summarize(samples)
    assert summary.outliers == 2
    assert (summary.count, summary.minimum, summary.maximum) == (22, -100, 100)
    assert (summary.p90, summary.p95, summary.p99) == (None, None, None)
    assert summary.mean == pytest.approx(np.mean(samples))


def test_constant_samples_have_no_outliers() -> None:
    assert estimates.tukey_outliers([3.0] * 20) == 0


# Newcombe (1998), table I: Wilson's score intervals.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    interval = estimates.wilson_interval(successes, trials)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_interval_of_86_of_100_is_about_seven_points_either_way() -> None:
    interval = estimates.wilson_interval(86, 100)
    assert (interval.high - interval.low) / 2 == pytest.approx(0.068, abs=0.001)


def test_wilson_interval_is_exact_at_the_ends() -> None:
    assert estimates.wilson_interval(0, 7).low == 0.0
    assert estimates.wilson_interval(7, 7).high == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        estimates.wilson_interval(successes, trials)


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024), (9, 1, 22 / 1024)],
)
def test_mcnemar_exact(first: int, second: int, p_value: float) -> None:
    assert estimates.mcnemar_exact(first, second) == pytest.approx(p_value)


def test_decisions() -> None:
    labels = [1, 1, 1, 0, 0, 0, 0, 1]
    decisions = [1, 1, 0, 0, 1, 0, 0, 1]
    assert estimates.accuracy(labels, decisions) == 6 / 8
    assert estimates.flips(labels, decisions) == 2
    assert estimates.f1_score(labels, decisions) == pytest.approx(6 / 8)
    interval = estimates.f1_interval(labels, decisions)
    share = estimates.wilson_interval(3, 5)
    assert interval is not None
    assert interval.low == pytest.approx(2 * share.low / (1 + share.low))
    assert interval.low < 6 / 8 < interval.high


def test_f1_is_absent_without_positives() -> None:
    assert estimates.f1_score([0, 0], [0, 0]) is None
    assert estimates.f1_interval([0, 0], [0, 0]) is None
    assert estimates.f1_score([1, 0], [0, 0]) == 0


@pytest.mark.parametrize("bad", [[0, 2], [0, -1]])
def test_labels_are_binary(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        estimates.f1_score([0, 1], bad)


def test_lengths_must_match() -> None:
    with pytest.raises(ValueError, match="one length"):
        estimates.agreement([1, 0], [1])


def test_roc_auc_by_counting_pairs() -> None:
    labels, scores = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    assert estimates.roc_auc(labels, scores) == 0.75
    assert estimates.roc_auc(labels, [1, 1, 1, 1]) == 0.5
    assert estimates.roc_auc([1, 1], [0.1, 0.2]) is None


def test_roc_auc_agrees_with_the_definition() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 60)
    scores = random.integers(0, 12, 60).astype(float)
    pairs = [np.sign(p - n) / 2 + 0.5 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert estimates.roc_auc(labels, scores) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("labels", "scores", "accuracy", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8], 1.0, 0.4),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9], 0.75, None),
        ([1, 1, 0, 0], [0.1, 0.2, 0.6, 0.8], 0.5, None),
        ([1, 0, 1], [0.5, 0.5, 0.5], 2 / 3, None),
    ],
)
def test_best_threshold(
    labels: list[int], scores: list[float], accuracy: float, threshold: float | None
) -> None:
    best = estimates.best_threshold(labels, scores)
    assert best.accuracy == pytest.approx(accuracy)
    assert estimates.accuracy(labels, (np.asarray(scores) >= best.value).astype(int)) == pytest.approx(
        accuracy
    )
    if threshold is not None:
        assert best.value == pytest.approx(threshold)


def test_best_threshold_is_the_best_of_all_by_trial() -> None:
    random = np.random.default_rng(11)
    labels = random.integers(0, 2, 80)
    scores = np.round(random.normal(size=80) + labels, 1)
    tried = [np.mean((scores >= cut) == labels) for cut in [*np.unique(scores), 99.0]]
    assert estimates.best_threshold(labels, scores).accuracy == pytest.approx(max(tried))


ROUNDING = 3e-13


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("scores", [[0.2, 0.9, 0.4], [0.7], [0.5, 0.5 + 1e-14], [0.0, 0.0], [-1.0, 1.0]])
def test_where_all_pairs_are_alike_no_rounding_reaches_the_threshold(scores: list[float], label: int) -> None:
    best = estimates.best_threshold([label] * len(scores), scores)
    assert best.accuracy == 1.0
    assert min(abs(score - best.value) for score in scores) >= 0.25 * max(1e-6, *map(abs, scores))


def test_a_threshold_never_stands_among_scores_that_only_rounding_tells_apart() -> None:
    """Equal sentences have a cosine of 1, up to rounding, and their labels need not be equal."""
    scores = np.array([0.1, 0.3, 1.0, 1 - 1e-13, 1 - 2e-13, 1 - 1e-9])
    labels = [0, 0, 1, 0, 0, 1]
    best = estimates.best_threshold(labels, scores)
    assert best.value == pytest.approx(0.65) and best.accuracy == pytest.approx(4 / 6)
    random = np.random.default_rng(1)
    for _ in range(20):
        moved = scores + random.uniform(-ROUNDING, ROUNDING, scores.size)
        assert ((moved >= best.value) == (scores >= best.value)).all()
        assert estimates.best_threshold(labels, moved).value == pytest.approx(best.value)


def test_of_equally_good_thresholds_the_one_in_the_widest_gap_is_taken() -> None:
    labels, scores = [0, 1, 0, 1], [0.1, 0.2, 0.21, 0.9]
    assert estimates.best_threshold(labels, scores).value == pytest.approx((0.21 + 0.9) / 2)
    # All for one class is as good here, and takes no such decision.
    assert estimates.best_threshold([1, 0, 1], [0.1, 0.5, 0.9]).value == pytest.approx(0.7)


def test_bootstrap_ratio_is_repeatable_and_covers() -> None:
    random = np.random.default_rng(5)
    slow, fast = random.lognormal(0.7, 0.1, 200), random.lognormal(0.0, 0.1, 200)
    interval = estimates.bootstrap_ratio_of_medians(slow, fast)
    assert interval == estimates.bootstrap_ratio_of_medians(slow, fast)
    assert interval.low < np.exp(0.7) < interval.high
    assert interval.high - interval.low < 0.2


def test_bootstrap_of_constants_is_exact() -> None:
    assert estimates.bootstrap_ratio_of_medians([4.0] * 9, [2.0] * 7) == estimates.Interval(2.0, 2.0)


def test_bootstrap_refuses_times_that_are_not_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        estimates.bootstrap_ratio_of_medians([1.0, 0.0], [1.0])


def test_coefficient_of_variation() -> None:
    assert estimates.coefficient_of_variation([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="coefficient"):
        estimates.coefficient_of_variation([1.0])


def test_geometric_mean() -> None:
    assert estimates.geometric_mean([1, 4]) == pytest.approx(2)
    with pytest.raises(ValueError, match="positive"):
        estimates.geometric_mean([1, 0])
