"""What a backend with static quantization sees before it is measured."""

from __future__ import annotations

from harness.values.spec import RunSpec
from harness.worker import accuracy, tokens
from harness.worker.data import Pairs
from harness.worker.tokens import Batch
from harness.worker.weights import Loaded

SEQUENCES = 64
BATCH_SIZE = 8


def batches(loaded: Loaded, pairs: Pairs | None, spec: RunSpec) -> list[Batch]:
    """SEQUENCES rows in batches of BATCH_SIZE: the first texts of `pairs` where there are some with a
    tokenizer, else random ids of the timed length and shorter ones, so that padding is seen too.

    The texts are among those that are scored, as in the published recipes: an accuracy after static
    quantization is, if anything, flattered by it.
    """
    if pairs is not None and loaded.tokenizer is not None:
        texts = tokens.texts_of(pairs, loaded.task)[:SEQUENCES]
        limit = accuracy.position_limit(loaded.model)
        return tokens.text_batches(loaded.tokenizer, texts, BATCH_SIZE, limit=limit)
    return [_random(loaded, spec, index) for index in range(SEQUENCES // BATCH_SIZE)]


def _random(loaded: Loaded, spec: RunSpec, index: int) -> Batch:
    seq_len = spec.batch.seq_len
    lengths = [max(1, seq_len - row * seq_len // BATCH_SIZE) for row in range(BATCH_SIZE)]
    return tokens.random_batch(loaded.model.config.vocab_size, lengths, seq_len, spec.seed + 1 + index)
