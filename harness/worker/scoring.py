"""From scores and decisions to the accuracy of a report: pure functions of NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.values import estimates, report
from harness.values.quality import WorstText

Array = NDArray[Any]
# Of a share in 0..1, which is a quotient of two counts: one that just passes must not fail by its last bit.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Decisions:
    """A model's view of the pairs: a score each (higher: more of a paraphrase), and the decision, 0 or 1."""

    scores: Array
    decisions: Array


def from_logits(logits: Array) -> Decisions:
    """Of logits (pairs, 2): the probability of class 1, and the larger logit.

    Class 0 when they are equal, up to what rounding can make of equal ones: which of the two is larger by a
    hair differs from one implementation to the next.
    """
    difference = (logits[:, 1] - logits[:, 0]).astype(np.float64)
    tie = estimates.RESOLUTION * np.maximum(1, np.abs(logits).max(axis=1))
    return Decisions(0.5 * (1 + np.tanh(difference / 2)), (difference > tie).astype(np.int64))


def from_cosines(cosines: Array, threshold: float) -> Decisions:
    """Of the cosine of each pair's embeddings: a paraphrase from `threshold` on."""
    return Decisions(scores=cosines, decisions=(cosines >= threshold).astype(np.int64))


def cosines(first: Array, second: Array) -> Array:
    """Cosine of each row of `first` with the same row of `second`, (rows, width) -> float64 (rows,).

    A row of zeros has no direction: its cosine is 1 with another such row, else 0.
    """
    one, two = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    both_zero = ~one.any(axis=1) & ~two.any(axis=1)
    values = (one * two).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    result: Array = np.where(both_zero, 1.0, np.clip(values, -1, 1))
    return result


def roc_auc(labels: Array, values: Array) -> float | None:
    """ROC-AUC of cosines, of which those that only rounding tells apart are equal; None with one class."""
    return estimates.roc_auc(labels, np.round(values / estimates.RESOLUTION))


def gate(accuracy: float, reference: float) -> str:
    """The strictest of MLPerf's gates that `accuracy` passes."""
    for name, share in (("99.9%", 0.999), ("99%", 0.99)):
        if accuracy >= share * reference - ROUNDING:
            return name
    return "below 99%"


# Below so many a 1st percentile is hardly more than the smallest.
ENOUGH_FOR_A_PERCENTILE = 100
WORST_TEXTS = 10


def of_cosines(values: Array) -> dict[str, Any]:
    """What a report says of the cosines to the reference, by its names."""
    percentile = float(np.percentile(values, 1)) if len(values) >= ENOUGH_FOR_A_PERCENTILE else None
    return {
        "cosine_min": float(values.min()),
        "cosine_mean": float(values.mean()),
        "cosine_p1": percentile,
    }


def spearman(found: Array, expected: Array) -> float | None:
    """Rank correlation; None where one side ranks nothing."""
    if len(found) < 3 or np.ptp(found) == 0 or np.ptp(expected) == 0:
        return None
    return float(stats.spearmanr(found, expected).statistic)


def worst(texts: Sequence[tuple[str, ...]], errors: Array) -> tuple[WorstText, ...]:
    """The texts with the largest errors, the largest first; of equal ones the earlier."""
    order = np.argsort(-errors, kind="stable")[:WORST_TEXTS]
    return tuple(WorstText(texts[index], float(errors[index])) for index in order if errors[index] > 0)


def agree(measured: Decisions, reference: Decisions) -> report.Accuracy:
    """How the decisions differ from the reference's where there are no labels."""
    return report.Accuracy(
        samples=int(measured.decisions.size),
        agreement=estimates.agreement(measured.decisions, reference.decisions),
        flips=estimates.flips(measured.decisions, reference.decisions),
    )


def judge(labels: Array, measured: Decisions, reference: Decisions) -> report.Accuracy:
    """Accuracy of `measured` on the labels, and how it differs from `reference` on the same pairs."""
    accuracy = estimates.accuracy(labels, measured.decisions)
    reference_accuracy = estimates.accuracy(labels, reference.decisions)
    right = measured.decisions == labels
    reference_right = reference.decisions == labels
    return report.Accuracy(
        samples=int(labels.size),
        accuracy=accuracy,
        accuracy_interval=_interval(estimates.wilson_interval(int(right.sum()), int(labels.size))),
        f1=estimates.f1_score(labels, measured.decisions),
        f1_interval=_interval(estimates.f1_interval(labels, measured.decisions)),
        reference_accuracy=reference_accuracy,
        reference_f1=estimates.f1_score(labels, reference.decisions),
        agreement=estimates.agreement(measured.decisions, reference.decisions),
        flips=estimates.flips(measured.decisions, reference.decisions),
        mcnemar_p=estimates.mcnemar_exact(
            int((right & ~reference_right).sum()), int((reference_right & ~right).sum())
        ),
        gate=gate(accuracy, reference_accuracy),
    )


def predictions(labels: Array | None, measured: Decisions, reference: Decisions) -> list[dict[str, Any]]:
    """One row per pair, in the order of the data, for predictions.json; `label` is None without labels."""
    return [
        {
            "index": index,
            "label": None if labels is None else int(labels[index]),
            "score": float(measured.scores[index]),
            "decision": int(measured.decisions[index]),
            "reference_score": float(reference.scores[index]),
            "reference_decision": int(reference.decisions[index]),
        }
        for index in range(measured.decisions.size)
    ]


def _interval(interval: estimates.Interval | None) -> report.Interval | None:
    return None if interval is None else report.Interval(low=interval.low, high=interval.high)
