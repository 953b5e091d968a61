"""Lengths of synthetic rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from harness.values.spec import BatchSpec
from harness.worker.lengths import BATCHES, rows


def drawn(**fields: Any) -> np.ndarray:
    return np.array(list(itertools.chain(*rows(BatchSpec(32, **fields), seed=1))))


def test_fixed_is_one_full_batch() -> None:
    assert rows(BatchSpec(3, 16), seed=0) == [[16, 16, 16]]


@pytest.mark.parametrize("lengths", ["uniform", "mrpc-like"])
def test_a_distribution_is_many_batches_that_a_seed_decides(lengths: str) -> None:
    batch = BatchSpec(4, 128, lengths=lengths)
    assert rows(batch, 1) == rows(batch, 1) != rows(batch, 2)
    assert len(rows(batch, 1)) == BATCHES and {len(row) for row in rows(batch, 1)} == {4}


def test_uniform_has_every_length() -> None:
    assert set(drawn(seq_len=8, lengths="uniform")) == set(range(1, 9))


def test_mrpc_like_has_the_mean_and_spread_of_mrpc() -> None:
    lengths = drawn(seq_len=512, lengths="mrpc-like")
    assert lengths.mean() == pytest.approx(53, abs=1.5)
    assert lengths.std() == pytest.approx(14, abs=1.5)
    assert drawn(seq_len=512, lengths="mrpc-like", mean_length=200.0).mean() == pytest.approx(200, rel=0.05)


def test_nothing_is_longer_than_the_rows() -> None:
    lengths = drawn(seq_len=50, lengths="mrpc-like")
    assert lengths.max() == 50 and lengths.min() >= 1


def test_a_list_is_taken_in_turn_until_it_fits() -> None:
    assert rows(BatchSpec(2, 64, lengths=[5, 9, 64]), seed=0) == [[5, 9], [64, 5], [9, 64]]
