"""Token batches: shapes, padding, repetition and seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from worker_tools import PAIRS, WORDS, make_checkpoint

from harness.worker.data import Pairs
from harness.worker.tokens import length_order, random_batch, text_batches, texts_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(make_checkpoint(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def pairs() -> Pairs:
    first, second, labels = zip(*PAIRS, strict=True)
    return Pairs(first, second, labels)


def test_random_ids_follow_the_seed_and_the_lengths() -> None:
    batch = random_batch(len(WORDS), [4, 1, 0], 4, seed=1)
    again, other = (
        random_batch(len(WORDS), [4, 1, 0], 4, seed=1),
        random_batch(len(WORDS), [4, 1, 0], 4, seed=2),
    )
    assert torch.equal(batch.input_ids, again.input_ids)
    assert not torch.equal(batch.input_ids, other.input_ids)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.lengths() == [4, 1, 0]
    assert batch.padded_tokens() == 7
    assert all(tensor.dtype == torch.int64 and tensor.shape == (3, 4) for tensor in batch.inputs)
    assert int(batch.input_ids.max()) < len(WORDS)


def test_a_classifier_reads_pairs_and_other_tasks_sentences(pairs: Pairs) -> None:
    assert texts_of(pairs, "paraphrase-classification")[0] == PAIRS[0][:2]
    sentences = texts_of(pairs, "sentence-embedding")
    assert sentences == [*pairs.sentence1, *pairs.sentence2]


def test_batches_for_accuracy(tokenizer: transformers.PreTrainedTokenizerBase, pairs: Pairs) -> None:
    texts = texts_of(pairs, "paraphrase-classification")
    batches = text_batches(tokenizer, texts, 2, limit=48)
    assert [len(batch.input_ids) for batch in batches] == [2, 2, 1]
    assert all(max(batch.lengths()) == batch.input_ids.shape[1] for batch in batches)
    first = batches[0].input_ids[0]
    assert tokenizer.decode(first[: batches[0].lengths()[0]]) == "[CLS] the cat sat. [SEP] a cat sat. [SEP]"
    assert batches[0].token_type_ids[0].tolist()[:6] == [0, 0, 0, 0, 0, 0]
    assert batches[0].token_type_ids[0].tolist()[6] == 1


def test_batches_for_timing_are_full_and_of_one_length(
    tokenizer: transformers.PreTrainedTokenizerBase, pairs: Pairs
) -> None:
    texts = texts_of(pairs, "paraphrase-classification")
    batches = text_batches(tokenizer, texts, 3, limit=48, seq_len=12, full=True)
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(3, 12), (3, 12)]
    assert torch.equal(batches[1].input_ids[2], batches[0].input_ids[0]), "the sixth row repeats the first"
    assert sum(batch.padded_tokens() for batch in batches) > 0
    assert all(
        bool((batch.input_ids[batch.attention_mask == 0] == tokenizer.pad_token_id).all())
        for batch in batches
    )


def test_length_order() -> None:
    assert length_order(["ccc", "a", "bb", "d"]) == [1, 3, 2, 0]
    assert length_order([("aa", "bb"), ("a", "b"), ("", "ccc")]) == [1, 2, 0]


def test_long_texts_are_cut_at_the_limit(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    (batch,) = text_batches(tokenizer, ["the cat " * 50], 1, limit=10)
    assert batch.lengths() == [10]


def test_a_padding_that_the_tokenizer_brings_along_does_not_count(tmp_path: Path, pairs: Pairs) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_checkpoint(tmp_path))
    tokenizer.backend_tokenizer.enable_padding(length=40)
    (batch,) = text_batches(tokenizer, texts_of(pairs, "encoder"), 100, limit=48)
    assert batch.input_ids.shape[1] < 20
