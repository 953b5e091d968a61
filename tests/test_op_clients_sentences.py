"""sentence-transformers on top of the op, with the weights of all-MiniLM-L6-v2 that a package installs."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch

sentence_transformers = pytest.importorskip("sentence_transformers", reason="it is not installed")

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT.parent / "shared" / "models" / "minilm-l6-mrpc"
# Minimum cosine of an embedding to that of the unmodified library in fp32. An embedding is a mean over tokens
# and so is its error: in int8, fragments of one to three words have less to average over.
LEAST = {"fp32": 0.9999, "bf16": 0.9995, "bf16_qint8": 0.995}
LEAST_OF_FRAGMENTS = {**LEAST, "bf16_qint8": 0.99}


@pytest.fixture(scope="module")
def bench() -> Any:
    """cpp/bench/sentence_bench.py, which a thousand sentences are compared with by hand."""
    sys.path.insert(0, str(ROOT / "cpp" / "bench"))
    try:
        import sentence_bench
    finally:
        sys.path.pop(0)
    return sentence_bench


@pytest.fixture(scope="module")
def sentences(bench: Any) -> list[str]:
    """Sentences of 1 to 256 words in no order."""
    texts = bench.read_texts([ROOT / "harness" / "data" / "paraphrase.tsv"])
    return bench.make_sentences(texts, 40)


@pytest.fixture(scope="module")
def expected(bench: Any, sentences: list[str]) -> torch.Tensor:
    """The embeddings of the unmodified library."""
    model = bench.load(str(bench.package_folder()))
    assert bert_op.explain(model)["layers"][0]["path"] == "original"
    return bench.encode(model, sentences, 16)


@pytest.mark.parametrize("precision", LEAST)
def test_embeddings(bench: Any, sentences: list[str], expected: torch.Tensor, precision: str) -> None:
    assert {1, 256} <= {len(sentence.split()) for sentence in sentences}
    model = bench.load(str(bench.package_folder()))
    assert bert_op.optimize(model, precision) is model
    found = bench.encode(model, sentences, 16)
    cosines = torch.nn.functional.cosine_similarity(found, expected, dim=-1)
    fragments = torch.tensor([len(sentence.split()) <= 3 for sentence in sentences])
    assert cosines[~fragments].min() >= LEAST[precision]
    assert cosines[fragments].min() >= LEAST_OF_FRAGMENTS[precision]
    assert not bert_op.explain(model)["fallbacks"]


def test_import_alone_is_enough(bench: Any, sentences: list[str], expected: torch.Tensor) -> None:
    model = sentence_transformers.SentenceTransformer(str(bench.package_folder()), device="cpu")
    found = bench.encode(model, sentences, 7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bert_op.explain(model)["layers"][0]["path"] == "op"
    assert not bert_op.explain(model)["fallbacks"]


def test_one_sentence_is_embedded_as_among_others(bench: Any, sentences: list[str]) -> None:
    model = bert_op.optimize(bench.load(str(bench.package_folder())), "bf16_qint8")
    among = bench.encode(model, sentences[:12], 12)
    alone = torch.stack([bench.encode(model, [sentence], 1)[0] for sentence in sentences[:12]])
    assert torch.nn.functional.cosine_similarity(among, alone, dim=-1).min() > 0.99999


def test_token_embeddings_keep_their_lengths(bench: Any, sentences: list[str]) -> None:
    """Padding that the op leaves out must not be missed by whoever asks for the tokens."""
    original = bench.load(str(bench.package_folder()))
    model = bert_op.optimize(bench.load(str(bench.package_folder())), "fp32")
    found, wanted = (
        each.encode(sentences[:8], output_value="token_embeddings") for each in (model, original)
    )
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other, atol=2e-5, rtol=2e-5)


def test_cross_encoder() -> None:
    if not CHECKPOINT.exists():
        pytest.skip("the shared folder with minilm-l6-mrpc is not there")
    with (ROOT / "harness" / "data" / "paraphrase.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    draw = random.Random(0)
    pairs = [(row["sentence1"], row["sentence2"]) for row in draw.sample(rows, 24)]
    model = sentence_transformers.CrossEncoder(str(CHECKPOINT), device="cpu")
    model.model.float()
    found = torch.tensor(model.predict(pairs, batch_size=8))
    assert bert_op.explain(model.model)["layers"][0]["path"] == "op"
    bert_op.restore(model.model)
    expected = torch.tensor(model.predict(pairs, batch_size=8))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    bert_op.optimize(model.model, "bf16_qint8")
    near = torch.tensor(model.predict(pairs, batch_size=8))
    assert (near.argmax(-1) == expected.argmax(-1)).float().mean() >= 0.9
