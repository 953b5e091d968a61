"""Every head of every family on top of the op: the outputs are those of Hugging Face's own encoder."""

from __future__ import annotations

from typing import Any

import bert_op
import pytest
import torch
from bert_op._packed_encoder import PackedEncoder
from family_models import NAMES, batch, pair, tiny
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    DPRConfig,
    DPRQuestionEncoder,
)

HEADS = (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
)
PAIRS = [(name, head) for name in NAMES for head in HEADS if type(tiny(name)) in head._model_mapping]


def inputs_of(name: str, head: Any) -> dict[str, Tensor]:
    inputs = batch()
    if name == "splinter":  # finds the places of the answers by this token
        inputs["input_ids"][:, 0] = tiny(name).question_token_id
    if head is AutoModelForMultipleChoice:
        return {key: torch.stack([value, value.flip(0)], dim=1) for key, value in inputs.items()}
    return inputs


def tensors_of(output: Any) -> list[Tensor]:
    values = output.to_tuple()
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize(("name", "head"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_head(name: str, head: Any) -> None:
    model, reference = pair(name, head)
    inputs = inputs_of(name, head)
    with torch.inference_mode():
        found, expected = tensors_of(model(**inputs)), tensors_of(reference(**inputs))
    assert len(found) == len(expected) > 0
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-4, rtol=1e-4)
    report = bert_op.explain(model)
    assert {layer["path"] for layer in report["layers"]} == {"op"}
    assert report["fallbacks"] == []


def test_the_table_of_heads_is_not_empty() -> None:
    assert {name for name, _ in PAIRS} >= {"bert", "roberta", "electra", "distilbert", "mpnet", "layoutlm"}
    assert {head for _, head in PAIRS} == set(HEADS)


def test_models_that_contain_one_of_a_family() -> None:
    config = DPRConfig(
        vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    model = DPRQuestionEncoder(config).eval()
    assert sum(isinstance(module, PackedEncoder) for module in model.modules()) == 1
    inputs = {"input_ids": torch.randint(5, 60, (2, 9))}
    with torch.inference_mode():
        found = model(**inputs).pooler_output
        expected = bert_op.restore(model)(**inputs).pooler_output
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
