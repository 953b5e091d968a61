"""How many valid tokens each row of a synthetic batch has."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harness.values.spec import BatchSpec

# So many different batches take turns: enough that their mean is close to that of the distribution.
BATCHES = 32

# Of the 1725 pairs of MRPC's test part in tokens of bert-base-uncased: mean, and deviation of the logarithm.
MRPC_MEAN = 53.0
MRPC_SIGMA = 0.26


def rows(batch: BatchSpec, seed: int) -> list[list[int]]:
    """For each of the batches that take turns the lengths of its batch.size rows, from 1 to seq_len."""
    if batch.lengths == "fixed":
        return [[batch.seq_len] * batch.size]
    if isinstance(batch.lengths, list):
        whole = math.lcm(len(batch.lengths), batch.size)
        return _split([batch.lengths[index % len(batch.lengths)] for index in range(whole)], batch.size)
    random = np.random.default_rng(seed)
    count = BATCHES * batch.size
    if batch.lengths == "uniform":
        drawn: NDArray[np.float64] = random.integers(1, batch.seq_len, count, endpoint=True).astype(
            np.float64
        )
    else:
        mean = batch.mean_length if batch.mean_length is not None else MRPC_MEAN
        drawn = random.lognormal(math.log(mean) - MRPC_SIGMA**2 / 2, MRPC_SIGMA, count)
    return _split([int(length) for length in np.clip(np.rint(drawn), 1, batch.seq_len)], batch.size)


def _split(lengths: list[int], size: int) -> list[list[int]]:
    return [lengths[start : start + size] for start in range(0, len(lengths), size)]
