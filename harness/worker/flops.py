"""How much arithmetic a batch needs: a pure function of the architecture and the valid lengths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def encoder_flops(
    lengths: Iterable[int], *, num_layers: int, hidden_size: int, intermediate_size: int
) -> int:
    """Floating-point operations (a multiply-add is two) of a BERT encoder's matrix products on sequences of
    `lengths`.

    Four projections and two feed-forward products a token, scores and context over the sequence. Only valid
    tokens count: work on padding is not work done. Embeddings, softmax, LayerNorm and heads (below 1 %) are
    left out.
    """
    linear_per_token = 2 * (4 * hidden_size * hidden_size + 2 * hidden_size * intermediate_size)
    return sum(
        num_layers * (linear_per_token * length + 4 * length * length * hidden_size) for length in lengths
    )


def intermediate_size(config: Any) -> int:
    """Width of the feed-forward layers by a Hugging Face config, which DistilBERT calls hidden_dim."""
    width = getattr(config, "intermediate_size", None)
    return int(config.hidden_dim if width is None else width)
