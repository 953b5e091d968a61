"""Whether a search would find the same: each text's nearest others, by two embeddings of the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def distinct(texts: Sequence[str]) -> Array:
    """The number of each text that no earlier one equals: copies would be each other's nearest."""
    return np.asarray(sorted({text: number for number, text in reversed(list(enumerate(texts)))}.values()))


def overlap(found: Array, expected: Array, count: int) -> float | None:
    """Mean share of the `count` nearest rows of each row that are the same by both, by cosine; 0..1.

    found, expected: (rows, width), a row for each distinct text. None where less than twice as many others as
    are looked for could be found: chance alone would find them.
    """
    if len(found) < 2 * count + 1:
        return None
    return shared(_nearest(found, count), _nearest(expected, count))


def shared(found: Array, expected: Array) -> float:
    """Mean share of the numbers in a row of `found`, (rows, count), that the same row of `expected` has."""
    same = [len(set(one) & set(other)) for one, other in zip(found.tolist(), expected.tolist(), strict=True)]
    return float(np.mean(same)) / found.shape[1]


def searched(queries: Array, passages: Array, count: int) -> Array | None:
    """Numbers of the `count` passages nearest to each query, (queries, count), the nearest first; of equal
    ones the earlier. None where less than twice as many are there, of which chance alone would find some.
    """
    if len(passages) < 2 * count:
        return None
    nearest: Array = np.argsort(-(_unit(queries) @ _unit(passages).T), axis=1, kind="stable")[:, :count]
    return nearest


def _nearest(rows: Array, count: int) -> Array:
    """Numbers of the `count` nearest other rows of each, the nearest first; of equal ones the earlier."""
    unit = _unit(rows)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: Array = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return nearest


def _unit(rows: Array) -> Array:
    """Each row at length 1, float64; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Array = rows.astype(np.float64) / np.where(lengths == 0, 1, lengths)
    return unit
