"""From logits and cosines to the accuracy of a report, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.values.quality import WorstText
from harness.worker import scoring
from harness.worker.scoring import Decisions


def test_logits_to_decisions() -> None:
    decided = scoring.from_logits(np.array([[0.0, 2.0], [1.0, -1.0], [3.0, 3.0]], dtype=np.float32))
    assert decided.decisions.tolist() == [1, 0, 0]
    assert decided.scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2)), 0.5])


def test_logits_far_apart_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert scoring.from_logits(np.array([[-1e4, 1e4], [1e4, -1e4]])).scores.tolist() == [1.0, 0.0]


def test_cosines() -> None:
    first = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    second = np.array([[0.0, 2.0], [-2.0, -2.0], [0.0, 0.0], [1.0, 0.0]])
    assert scoring.cosines(first, second) == pytest.approx([0.0, -1.0, 1.0, 0.0])


def test_the_threshold_itself_is_a_paraphrase() -> None:
    assert scoring.from_cosines(np.array([0.4, 0.5, 0.6]), 0.5).decisions.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("accuracy", "reference", "name"),
    [
        (0.8, 0.8, "99.9%"),
        (0.9, 0.8, "99.9%"),
        (0.7995, 0.8, "99.9%"),
        (0.795, 0.8, "99%"),
        (0.79, 0.8, "below 99%"),
    ],
)
def test_gate(accuracy: float, reference: float, name: str) -> None:
    assert scoring.gate(accuracy, reference) == name


def test_a_share_that_just_passes_the_gate_passes_whatever_its_last_bit() -> None:
    passed = [scoring.gate(0.99 * reference, reference) for reference in np.linspace(0.5, 1.0, 501)]
    assert set(passed) == {"99%"}


def test_equal_logits_are_class_0_whichever_way_they_are_rounded() -> None:
    equal = np.array([[2.5, 2.5], [0.0, 0.0], [-300.0, -300.0]])
    for sign in (1, -1):
        rounded = equal + sign * np.array([-1e-13, 1e-13]) * np.maximum(1, np.abs(equal))
        assert scoring.from_logits(rounded).decisions.tolist() == [0, 0, 0]
    assert scoring.from_logits(np.array([[0.0, 1e-4]])).decisions.tolist() == [1]


def test_cosines_that_only_rounding_tells_apart_are_ties() -> None:
    labels = np.array([1, 0, 1, 0])
    exact = scoring.roc_auc(labels, np.array([1.0, 1.0, 0.5, 0.2]))
    assert exact == scoring.roc_auc(labels, np.array([1 - 2e-13, 1.0, 0.5, 0.2])) == 0.625


def test_judge() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    reference = Decisions(np.zeros(10), np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1]))
    measured = Decisions(np.zeros(10), np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0]))
    result = scoring.judge(labels, measured, reference)
    assert result.samples == 10
    assert result.accuracy == 0.8
    assert result.reference_accuracy == 0.8
    assert result.f1 == pytest.approx(2 / 3)
    assert result.reference_f1 == 0.75
    assert result.agreement == 0.8
    assert result.flips == 2
    # One decision got worse and one better: nothing that a test of significance could tell from chance.
    assert result.mcnemar_p == 1.0
    assert result.gate == "99.9%"
    assert (
        result.accuracy_interval is not None
        and result.accuracy_interval.low < 0.8 < result.accuracy_interval.high
    )


def test_predictions_keep_both_sides_of_each_pair() -> None:
    rows = scoring.predictions(
        np.array([1, 0]),
        Decisions(np.array([0.9, 0.6]), np.array([1, 1])),
        Decisions(np.array([0.8, 0.4]), np.array([1, 0])),
    )
    assert rows[1] == {
        "index": 1,
        "label": 0,
        "score": 0.6,
        "decision": 1,
        "reference_score": 0.4,
        "reference_decision": 0,
    }


def test_the_cosines_of_few_texts_have_no_percentile() -> None:
    assert scoring.of_cosines(np.array([0.5, 1.0])) == {
        "cosine_min": 0.5,
        "cosine_mean": 0.75,
        "cosine_p1": None,
    }
    assert scoring.of_cosines(np.linspace(0, 1, 101))["cosine_p1"] == pytest.approx(0.01)


def test_rank_correlation() -> None:
    one = np.array([0.1, 0.5, 0.3, 0.9])
    assert scoring.spearman(one, one**3) == pytest.approx(1)
    assert scoring.spearman(one, -one) == pytest.approx(-1)
    assert scoring.spearman(one, np.ones(4)) is None


def test_the_texts_with_the_largest_errors() -> None:
    texts = [(str(number),) for number in range(20)]
    found = scoring.worst(texts, np.array([0.0, 3.0, 1.0, 3.0] + [0.0] * 16))
    assert found == (WorstText(("1",), 3.0), WorstText(("3",), 3.0), WorstText(("2",), 1.0))
    assert len(scoring.worst(texts, np.ones(20))) == scoring.WORST_TEXTS


def test_decisions_without_labels_agree_or_do_not() -> None:
    measured, reference = (Decisions(np.zeros(4), np.array(d)) for d in ([0, 1, 1, 0], [0, 1, 0, 0]))
    found = scoring.agree(measured, reference)
    assert (found.samples, found.agreement, found.flips, found.accuracy) == (4, 0.75, 1, None)
    assert [row["label"] for row in scoring.predictions(None, measured, reference)] == [None] * 4
