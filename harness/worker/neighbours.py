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
    ours, theirs = (_nearest(rows, count) for rows in (found, expected))
    same = [len(set(one) & set(other)) for one, other in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return float(np.mean(same)) / count


def _nearest(rows: Array, count: int) -> Array:
    """Numbers of the `count` nearest other rows of each, the nearest first; of equal ones the earlier."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows.astype(np.float64) / np.where(lengths == 0, 1, lengths)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: Array = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return nearest
