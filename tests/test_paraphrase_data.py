"""The shipped sentence pairs: well-formed, balanced, not solvable by counting the words that both share."""

import csv
import re
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "harness" / "data" / "paraphrase.tsv"


def words(sentence: str) -> set[str]:
    return set(re.findall(r"[a-z0-9']+", sentence.lower()))


def jaccard(first: str, second: str) -> float:
    a, b = words(first), words(second)
    return len(a & b) / len(a | b)


def best_threshold_accuracy(scores: list[float], labels: list[int]) -> float:
    """Accuracy of the best rule `score >= t` or `score < t`, over all thresholds t."""
    accuracies = [
        sum((s >= t) == bool(y) for s, y in zip(scores, labels, strict=True)) / len(labels)
        for t in {*scores, 2.0}
    ]
    return max(max(accuracies), 1 - min(accuracies))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with PATH.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_columns_and_size(rows):
    assert list(rows[0]) == ["label", "sentence1", "sentence2"]
    assert len(rows) >= 200
    assert all(None not in row and None not in row.values() for row in rows), "wrong number of fields"


def test_text_is_plain_and_whole(rows):
    for row in rows:
        assert row["label"] in {"0", "1"}
        for sentence in (row["sentence1"], row["sentence2"]):
            assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,.;:'-]*\.", sentence), sentence
            assert "  " not in sentence


def test_labels_are_balanced_in_every_leading_part(rows):
    labels = [int(row["label"]) for row in rows]
    for part in (100, 200, len(labels)):
        assert 0.4 <= sum(labels[:part]) / part <= 0.6, part


def test_no_duplicates(rows):
    pairs = {frozenset((row["sentence1"].lower(), row["sentence2"].lower())) for row in rows}
    assert len(pairs) == len(rows)
    assert all(len(pair) == 2 for pair in pairs), "a sentence is paired with itself"


@pytest.mark.parametrize("samples", [100, None])
def test_shared_words_do_not_decide(rows, samples):
    part = rows[:samples]
    labels = [int(row["label"]) for row in part]
    scores = [jaccard(row["sentence1"], row["sentence2"]) for row in part]
    assert best_threshold_accuracy(scores, labels) < (0.65 if samples is None else 0.70)


def test_each_kind_of_pair_is_present(rows):
    """Many and few shared words, for both labels: no quarter of the table in the README is empty."""
    kinds = {(row["label"], jaccard(row["sentence1"], row["sentence2"]) >= 0.4) for row in rows}
    assert len(kinds) == 4


def test_baseline_scores_what_it_should():
    assert best_threshold_accuracy([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1.0
    assert best_threshold_accuracy([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]) == 1.0
    assert best_threshold_accuracy([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1]) == 0.5
    assert jaccard("The cat sat.", "The dog sat.") == 0.5
