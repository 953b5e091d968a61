"""Nearest neighbours by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.worker import neighbours

# On a circle, at growing distances: each row's nearest are those beside it, and no two are as near.
CIRCLE = np.array([[np.cos(a), np.sin(a)] for a in np.radians(np.arange(36) ** 1.1 * 6)])


def test_of_equal_texts_only_the_first_counts() -> None:
    assert neighbours.distinct(["a", "b", "a", "c", "b"]).tolist() == [0, 1, 3]


@pytest.mark.parametrize("count", [1, 10])
def test_the_same_embeddings_find_the_same(count: int) -> None:
    assert neighbours.overlap(CIRCLE, CIRCLE.copy(), count) == 1.0
    assert neighbours.overlap(3 * CIRCLE, CIRCLE, count) == 1.0


def test_what_moved_is_found_elsewhere() -> None:
    moved = CIRCLE.copy()
    moved[[0, 18]] = moved[[18, 0]]
    top1 = neighbours.overlap(moved, CIRCLE, 1)
    assert top1 is not None and 0.8 < top1 < 1.0


def test_too_few_texts_say_nothing() -> None:
    assert neighbours.overlap(CIRCLE[:2], CIRCLE[:2], 1) is None
    assert neighbours.overlap(CIRCLE[:3], CIRCLE[:3], 1) == 1.0
    assert neighbours.overlap(CIRCLE[:20], CIRCLE[:20], 10) is None


def test_a_text_is_not_its_own_neighbour_and_zeros_have_some() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert neighbours._nearest(rows, 1)[:2].tolist() == [[1], [0]]
