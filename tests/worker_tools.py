"""What the tests of the worker share: tiny BERT checkpoints with a vocabulary of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.bert import modeling_bert

from harness.values.spec import BackendSpec, BatchSpec, DataSpec, ModelSpec, RunSpec, RunTimeSpec

SHARED = Path(__file__).parents[1].parent / "shared"
WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "the",
    "mat",
    "##s",
    ".",
)
ARCHITECTURE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 48,
}
PAIRS = [
    ("The cat sat.", "A cat sat.", 1),
    ("The dog ran on the mat.", "The dogs ran.", 1),
    ("A dog ran.", "The cat sat on the mat.", 0),
    ("The cats ran.", "A mat.", 0),
    ("The dog sat on a mat.", "On the mat the dog sat.", 1),
]


@pytest.fixture(scope="module")
def hugging_face_as_it_is() -> Iterator[None]:
    """Hugging Face's own encoder, whatever tests before these have imported: bert_op replaces it for good.

    A measured process is fresh and needs none of this; here all tests share one.
    """
    own = modeling_bert.__name__
    encoder = next(cls for cls in modeling_bert.BertEncoder.__mro__ if cls.__module__ == own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_bert, "BertEncoder", encoder)
        yield


def make_checkpoint(folder: Path, *, labels: int | None = 2, seed: int = 3) -> Path:
    """A random checkpoint with a WordPiece tokenizer: a classifier with `labels`, or none of it for None."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(**ARCHITECTURE)
    if labels is None:
        model = transformers.BertModel(config)
    else:
        config.num_labels = labels
        model = transformers.BertForSequenceClassification(config)
    # The default initialisation is so small that all logits are nearly equal.
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Changes entries of the checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_pairs(path: Path) -> Path:
    """PAIRS as TSV with its head."""
    lines = [f"{label}\t{first}\t{second}" for first, second, label in PAIRS]
    path.write_text("\n".join(["label\tsentence1\tsentence2", *lines]) + "\n")
    return path


def path_model(folder: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(**({"name": folder.name, "source": "path", "path": str(folder)} | changes))


def run_spec(model: ModelSpec, **changes: Any) -> RunSpec:
    """Hugging Face in fp32, eager, 2 by 8 random ids, 3 calls; `changes` replace fields of RunSpec."""
    fields: dict[str, Any] = {
        "model": model,
        "data": DataSpec("synthetic"),
        "backend": BackendSpec("hf", "eager"),
        "batch": BatchSpec(2, 8),
        "run_time": RunTimeSpec(iterations=3),
    }
    return RunSpec(**(fields | changes))


def shared(*parts: str) -> Path:
    """A file or folder of the shared material; skips the test, visibly, where it is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the shared folder with {'/'.join(parts)}")
    return path
