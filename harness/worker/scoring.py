"""From scores and decisions to the accuracy of a report: pure functions of NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.values import estimates, report

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


def predictions(labels: Array, measured: Decisions, reference: Decisions) -> list[dict[str, Any]]:
    """One row per pair, in the order of the data, for predictions.json."""
    return [
        {
            "index": index,
            "label": int(labels[index]),
            "score": float(measured.scores[index]),
            "decision": int(measured.decisions[index]),
            "reference_score": float(reference.scores[index]),
            "reference_decision": int(reference.decisions[index]),
        }
        for index in range(labels.size)
    ]


def _interval(interval: estimates.Interval | None) -> report.Interval | None:
    return None if interval is None else report.Interval(low=interval.low, high=interval.high)
