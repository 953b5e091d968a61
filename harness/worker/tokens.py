"""Token ids for the model: random ones, or those of sentences. All tensors are int64 on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers

from harness.worker.data import Pairs

Text = tuple[str, str] | str


@dataclass(frozen=True)
class Batch:
    """What one call gets: three tensors (batch, seq_len); attention_mask is 1 at valid positions, 0 at
    padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor

    @property
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """In the order in which captured graphs take them."""
        return self.input_ids, self.attention_mask, self.token_type_ids

    def lengths(self) -> list[int]:
        """Valid tokens of each row."""
        return [int(length) for length in self.attention_mask.sum(dim=1)]

    def padded_tokens(self) -> int:
        """Positions that are no valid token."""
        return self.attention_mask.numel() - int(self.attention_mask.sum())


def random_batch(vocab_size: int, lengths: Sequence[int], seq_len: int, seed: int) -> Batch:
    """Uniform random ids in rows of `seq_len`, of which row i has lengths[i] valid ones, then padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), seq_len)
    input_ids = torch.randint(0, vocab_size, shape, generator=generator)
    attention_mask = (torch.arange(seq_len)[None, :] < torch.tensor(lengths)[:, None]).long()
    return Batch(input_ids, attention_mask, torch.zeros(shape, dtype=torch.int64))


def texts_of(pairs: Pairs, task: str) -> list[Text]:
    """What one row of a batch holds: both sentences of a pair for classification, otherwise one sentence
    (all first sentences, then all second ones)."""
    if task == "paraphrase-classification":
        return list(zip(pairs.sentence1, pairs.sentence2, strict=True))
    return [*pairs.sentence1, *pairs.sentence2]


def length_order(texts: Sequence[Text]) -> list[int]:
    """Indices of `texts` from the shortest to the longest, by characters, which go with the tokens."""
    return sorted(range(len(texts)), key=lambda index: len("".join(texts[index])))


def text_batches(
    tokenizer: transformers.PreTrainedTokenizerBase,
    texts: Sequence[Text],
    size: int,
    *,
    limit: int,
    seq_len: int | None = None,
    full: bool = False,
) -> list[Batch]:
    """Batches of `size` texts in their order, truncated to `limit` tokens.

    seq_len: pads every row to that length; None to the longest row of its batch. full, for timing: texts are
    repeated from the start until the last batch is full too; otherwise it may be smaller.
    """
    if full:
        whole = -(-len(texts) // size) * size
        texts = list(itertools.islice(itertools.cycle(texts), whole))
    if seq_len is not None:
        limit = min(limit, seq_len)
    chunks = (list(texts[start : start + size]) for start in range(0, len(texts), size))
    return [_encode(tokenizer, chunk, limit, seq_len) for chunk in chunks]


def _encode(
    tokenizer: transformers.PreTrainedTokenizerBase, texts: list[Text], limit: int, seq_len: int | None
) -> Batch:
    # The padding is said outright, because a tokenizer.json can bring a fixed one of its own.
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=limit,
        padding="longest" if seq_len is None else False,
        return_attention_mask=True,
        return_token_type_ids=True,
        return_tensors="pt" if seq_len is None else None,
    )
    if seq_len is not None:
        encoded = tokenizer.pad(encoded, padding="max_length", max_length=seq_len, return_tensors="pt")
    return Batch(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"])
