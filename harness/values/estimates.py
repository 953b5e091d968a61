"""Statistics of a measurement: pure functions of samples, labels and scores.

Latency distributions of a busy machine are skewed and have long tails, so nothing here assumes a normal
distribution: medians have order-statistic intervals, proportions Wilson's, ratios a bootstrap. (Whether one
thing is faster than another is judged in harness/judge/processes.py.) A number that its samples cannot
support is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.95

# Samples needed before a percentile is quoted, MLPerf's rule: with this many, at least two of them lie beyond
# the true percentile with 99 % confidence.
PERCENTILE_GATES: dict[int, int] = {90: 64, 95: 130, 99: 662}

# Scores of fp32 outputs that are closer than this may be equal: by so much the order of its sums moves them.
RESOLUTION = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included, in the unit of the value it belongs to."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """What a series of samples says, in the unit of the samples; None where there are too few of them."""

    count: int
    p50: float
    ci_low: float | None
    ci_high: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    mean: float
    minimum: float
    maximum: float
    outliers: int


@dataclass(frozen=True)
class Threshold:
    """The decision rule `score >= value` and the accuracy it reaches on the pairs it was chosen on."""

    value: float
    accuracy: float


def summarize(samples: ArrayLike) -> Summary:
    """Summary of a 1-D series of at least one finite sample; ValueError for anything else."""
    values = _series(samples)
    interval = median_interval(values)
    return Summary(
        count=values.size,
        p50=median(values),
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        p90=percentile(values, 90),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        mean=float(values.mean()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        outliers=tukey_outliers(values),
    )


def latency_summary(samples: ArrayLike) -> dict[str, float]:
    """`Timing.latency_ms` of samples in ms; only what the number of samples supports."""
    summary = summarize(samples)
    values = {
        "p50": summary.p50, "mean": summary.mean, "min": summary.minimum, "max": summary.maximum,
        "ci_low": summary.ci_low, "ci_high": summary.ci_high,
        "p90": summary.p90, "p95": summary.p95, "p99": summary.p99,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def median(samples: ArrayLike) -> float:
    """The middle sample, or the mean of the two middle ones."""
    return float(np.median(_series(samples)))


def median_interval(samples: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Distribution-free interval of the median: the tightest symmetric pair of samples that covers it.

    The number of samples below the median is binomial(n, 1/2). None when even (min, max) covers it with less
    than `confidence`, which for 95 % is below six samples.
    """
    values = np.sort(_series(samples))
    _check_confidence(confidence)
    # The smallest k with P(X <= k) >= tail: X_(k) to X_(n + 1 - k), counted from 1, still covers.
    rank = _half_binomial_quantile((1 - confidence) / 2, values.size)
    if rank < 1:
        return None
    return Interval(low=float(values[rank - 1]), high=float(values[values.size - rank]))


def percentile(samples: ArrayLike, percent: int) -> float | None:
    """Nearest-rank percentile (an observed sample), None below the sample count of PERCENTILE_GATES.

    ValueError for a percentile without a gate.
    """
    if percent not in PERCENTILE_GATES:
        raise ValueError(f"no sample gate for percentile {percent}; known: {sorted(PERCENTILE_GATES)}")
    values = _series(samples)
    if values.size < PERCENTILE_GATES[percent]:
        return None
    return float(np.percentile(values, percent, method="inverted_cdf"))


def tukey_outliers(samples: ArrayLike) -> int:
    """How many samples lie over 1.5 interquartile ranges outside the quartiles: counted, never dropped."""
    values = _series(samples)
    first, third = np.percentile(values, [25, 75])
    reach = 1.5 * (third - first)
    return int(np.count_nonzero((values < first - reach) | (values > third + reach)))


def coefficient_of_variation(samples: ArrayLike) -> float:
    """Standard deviation (of a sample, n - 1) / mean; ValueError for fewer than two samples or mean 0."""
    values = _series(samples)
    if values.size < 2 or values.mean() == 0:
        raise ValueError(
            f"{values.size} samples with mean {values.mean():g} have no coefficient of variation"
        )
    return float(values.std(ddof=1) / values.mean())


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion. ValueError unless 0 <= successes <= trials and trials > 0."""
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    _check_confidence(confidence)
    z = float(special.ndtri((1 + confidence) / 2))
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * float(np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)))
    # At 0 and at all successes the ends are exact; rounding must not push them outside the estimate.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low=low, high=high)


def mcnemar_exact(only_first_correct: int, only_second_correct: int) -> float:
    """Exact two-sided McNemar p of two classifiers, from the samples that only one of them got right."""
    if only_first_correct < 0 or only_second_correct < 0:
        raise ValueError("discordant counts are not negative")
    discordant = only_first_correct + only_second_correct
    if discordant == 0:
        return 1.0
    tail = special.bdtr(min(only_first_correct, only_second_correct), discordant, 0.5)
    return float(min(1.0, 2 * tail))


def accuracy(labels: ArrayLike, decisions: ArrayLike) -> float:
    """Share of decisions that equal their label."""
    return agreement(labels, decisions)


def agreement(first: ArrayLike, second: ArrayLike) -> float:
    """Share of positions at which two series of decisions are equal."""
    one, two = _same_length(first, second)
    return float(np.mean(one == two))


def flips(first: ArrayLike, second: ArrayLike) -> int:
    """Number of positions at which two series of decisions differ."""
    one, two = _same_length(first, second)
    return int(np.count_nonzero(one != two))


def f1_score(labels: ArrayLike, decisions: ArrayLike) -> float | None:
    """F1 of the positive class (1); None when neither labels nor decisions contain it."""
    true_positive, wrong = _f1_counts(labels, decisions)
    if true_positive + wrong == 0:
        return None
    return 2 * true_positive / (2 * true_positive + wrong)


def f1_interval(labels: ArrayLike, decisions: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Interval of F1 by way of TP / (TP + FP + FN), which is a proportion: F1 = 2 share / (1 + share) is
    monotonic in it, so Wilson's ends carry over.
    """
    true_positive, wrong = _f1_counts(labels, decisions)
    if true_positive + wrong == 0:
        return None
    share = wilson_interval(true_positive, true_positive + wrong, confidence)
    return Interval(low=2 * share.low / (1 + share.low), high=2 * share.high / (1 + share.high))


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve of `scores` for labels 0 and 1, ties counted half; None with one class."""
    classes, values = _binary(labels), _series(scores)
    _check_length(classes, values)
    positive = int(np.count_nonzero(classes == 1))
    negative = classes.size - positive
    if positive == 0 or negative == 0:
        return None
    rank_sum = float(_ranks(values)[classes == 1].sum())
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative)


def best_threshold(labels: ArrayLike, scores: ArrayLike, resolution: float = RESOLUTION) -> Threshold:
    """The threshold with the best accuracy of `score >= threshold` for labels 0 and 1.

    A pair that lies within `resolution` of a threshold counts as wrong while it is chosen: rounding, which
    differs from one implementation to the next, decides it. Thresholds lie midway between neighbouring
    scores; of equally good ones the one in the widest gap is taken, and one that tells all pairs alike only
    where none is as good: it then lies far outside, by half of what the scores span or half of the largest.
    """
    classes, values = _binary(labels), _series(scores)
    _check_length(classes, values)
    distinct = np.unique(values)
    outside = max(np.ptp(distinct), np.abs(distinct).max(), 2 * resolution) / 2
    middles = (distinct[1:] + distinct[:-1]) / 2
    candidates = np.concatenate(([distinct[0] - outside], middles, [distinct[-1] + outside]))
    gaps = np.concatenate(([0.0], np.diff(distinct), [0.0]))
    negatives, positives = (np.sort(values[classes == label]) for label in (0, 1))

    def correct(margin: float) -> NDArray[np.int64]:
        below = np.searchsorted(negatives, candidates - margin, side="left")
        above = positives.size - np.searchsorted(positives, candidates + margin, side="left")
        return np.asarray(below + above, dtype=np.int64)

    certain = correct(resolution)
    winners = np.flatnonzero(certain == certain.max())
    widest = winners[gaps[winners] == gaps[winners].max()]
    winner = int(widest[widest.size // 2])
    reached = int(correct(0.0)[winner])
    return Threshold(value=float(candidates[winner]), accuracy=reached / classes.size)


def bootstrap_ratio_of_medians(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of median(numerator) / median(denominator), the same for the same seed.

    ValueError for samples that are not positive: a ratio of times needs times.
    """
    above, below = _series(numerator), _series(denominator)
    if above.min() <= 0 or below.min() <= 0:
        raise ValueError("a ratio of medians needs positive samples")
    _check_confidence(confidence)
    random = np.random.default_rng(seed)
    ratios = _resampled_medians(above, resamples, random) / _resampled_medians(below, resamples, random)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Interval(low=float(low), high=float(high))


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive ratios; ValueError for none or for one that is not positive."""
    series = _series(values)
    if series.min() <= 0:
        raise ValueError("a geometric mean needs positive values")
    return float(np.exp(np.log(series).mean()))


def _resampled_medians(values: Floats, resamples: int, random: np.random.Generator) -> Floats:
    # One resample at a time: an hour of samples times 2000 at once would not fit in memory.
    draws = (np.median(values[random.integers(0, values.size, values.size)]) for _ in range(resamples))
    return np.fromiter(draws, dtype=np.float64, count=resamples)


def _half_binomial_quantile(share: float, trials: int) -> int:
    """The smallest k with P(X <= k) >= share for X of binomial(trials, 1/2)."""
    # scipy.stats has it by name, but takes a second to import, in every process of the harness.
    near = max(0, int(special.bdtrik(share, trials, 0.5)) - 1)
    return next(k for k in range(near, trials + 1) if special.bdtr(k, trials, 0.5) >= share)


def _ranks(values: Floats) -> Floats:
    """Rank of each value, from 1; equal ones share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _f1_counts(labels: ArrayLike, decisions: ArrayLike) -> tuple[int, int]:
    """True positives, and false positives plus false negatives."""
    truth, decided = _same_length(_binary(labels), _binary(decisions))
    true_positive = int(np.count_nonzero((truth == 1) & (decided == 1)))
    return true_positive, int(np.count_nonzero(truth != decided))


def _series(samples: ArrayLike) -> Floats:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected a 1-D series of at least one sample, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("samples are not all finite")
    return values


def _binary(labels: ArrayLike) -> NDArray[Any]:
    values = np.asarray(labels)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("labels and decisions of two classes are 0 or 1")
    return values


def _same_length(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    one, two = np.asarray(first), np.asarray(second)
    _check_length(one, two)
    return one, two


def _check_length(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"expected two 1-D series of one length, got shapes {first.shape} and {second.shape}"
        )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, got {confidence}")
