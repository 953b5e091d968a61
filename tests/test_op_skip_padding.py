"""`skip_padding="auto"`: padding is left out where nothing reads it, and computed where somebody may."""

from __future__ import annotations

from typing import Any

import bert_op
import pytest
import torch
from bert_op._masks import first_rows_attended
from bert_op._readers import rows_read
from op_models import hugging_face, random_batch, random_model, tiny_config
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForMultipleChoice,
)

TOLERANCE = 3e-5


@pytest.mark.parametrize(
    ("model_class", "rows"),
    [
        (BertModel, "all"),
        (BertForSequenceClassification, "first"),
        (BertForMultipleChoice, "first"),
        (BertForTokenClassification, "all"),
        (BertForMaskedLM, "all"),
    ],
)
def test_what_heads_read(model_class: Any, rows: str) -> None:
    model = bert_op.optimize(random_model(tiny_config(), model_class), "fp32")
    encoder = model.encoder if model_class is BertModel else model.bert.encoder
    assert encoder.op_policy.skip_padding == "auto"
    assert encoder.op_rows == rows
    wrapped = nn.ModuleDict({"any": model})
    assert rows_read(wrapped, "any.encoder" if model_class is BertModel else "any.bert.encoder") == rows


def test_what_other_families_and_users_read() -> None:
    model: Any = DistilBertForSequenceClassification(
        DistilBertConfig(dim=64, n_heads=2, n_layers=1, hidden_dim=64)
    )
    assert rows_read(model, "distilbert.transformer") == "first"
    small = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    model = ElectraForMultipleChoice(ElectraConfig(**small, summary_type="mean"))
    assert rows_read(model, "electra.encoder") == "all"

    class Own(BertForSequenceClassification):
        pass

    model = Own(tiny_config())
    assert rows_read(model, "bert.encoder") == "all"
    model = BertForSequenceClassification(tiny_config())
    model.forward = lambda **inputs: inputs
    assert rows_read(model, "bert.encoder") == "all"


def compare(model_class: type, precision: str = "fp32", **inputs: Tensor) -> tuple[Tensor, Tensor, Any]:
    with hugging_face():
        reference = random_model(tiny_config(), model_class)
        model = random_model(tiny_config(), model_class)
    bert_op.optimize(model, precision)
    with torch.no_grad():
        return model(**inputs)[0], reference(**inputs)[0], model


def test_rows_that_the_caller_sees_are_computed() -> None:
    """As in late-interaction retrieval, where hidden rows are expansions of the query."""
    found, expected, _ = compare(BertModel, **random_batch())
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    scores, exact = ((states[0] @ states[1].T).max(-1).values.sum() for states in (found, expected))
    torch.testing.assert_close(scores, exact, atol=1e-3, rtol=1e-4)


def encoder_output(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    seen: list[Any] = []
    handle = model.bert.encoder.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen[0]


def test_classifiers_leave_padding_out_unless_it_is_in_front() -> None:
    inputs = random_batch()
    found, expected, model = compare(BertForSequenceClassification, **inputs)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    hidden = ~inputs["attention_mask"].bool()
    assert torch.all(encoder_output(model, inputs)[hidden] == 0)
    in_front = {name: value.flip(1) for name, value in inputs.items()}
    found, expected, model = compare(BertForSequenceClassification, **in_front)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.all(encoder_output(model, in_front)[hidden.flip(1)] != 0)


def test_who_calls_a_part_of_a_classifier_sees_its_rows() -> None:
    inputs = random_batch()
    _, _, model = compare(BertForSequenceClassification, **inputs)
    with hugging_face():
        reference = random_model(tiny_config(), BertForSequenceClassification)
    with torch.no_grad():
        found, expected = (each.bert(**inputs).last_hidden_state for each in (model, reference))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_what_is_asked_for_outranks() -> None:
    inputs = random_batch()
    hidden = ~inputs["attention_mask"].bool()
    model = random_model(tiny_config(), BertForTokenClassification)
    assert torch.all(encoder_output(bert_op.optimize(model, "fp32", skip_padding=True), inputs)[hidden] == 0)
    assert torch.all(encoder_output(bert_op.optimize(model, "fp32", skip_padding=False), inputs)[hidden] != 0)


@pytest.mark.parametrize("kind", ["boolean", "additive", "two-dimensional"])
def test_first_rows(kind: str) -> None:
    keep = random_batch()["attention_mask"].bool()
    for mask, expected in ((keep, True), (keep.flip(1), False)):
        forms = {
            "boolean": mask[:, None, None].expand(-1, 1, 10, 10),
            "additive": torch.zeros(3, 1, 1, 10).masked_fill(~mask[:, None, None], torch.finfo().min),
            "two-dimensional": mask.long(),
        }
        assert first_rows_attended(forms[kind]) is expected
    assert first_rows_attended(None)


def test_setting_is_known_everywhere(tmp_path: Any) -> None:
    with bert_op.using(skip_padding="auto"):
        assert bert_op.explain()["skip_padding"] == "auto"
        model = random_model(tiny_config())
    bert_op.optimize(model, "fp32").save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path)
    assert again.encoder.op_policy.skip_padding == "auto"
    assert again.encoder.op_rows == "all"  # until `optimize` is told what it is in


@pytest.mark.parametrize(
    ("pooling", "rows"),
    [("mean", "attended"), ("max", "attended"), ("cls", "first"), (("cls", "mean"), "first")],
)
def test_sentence_transformers(pooling: Any, rows: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="it is not installed")
    from sentence_transformers.models import Normalize, Pooling, Transformer

    with hugging_face():
        base = random_model(tiny_config())
    transformer = Transformer.__new__(Transformer)
    nn.Module.__init__(transformer)
    transformer.model = base
    modules = [transformer, Pooling(64, pooling_mode=pooling), Normalize()]
    model = nn.Sequential(*modules)
    model.__class__ = sentence_transformers.SentenceTransformer
    assert rows_read(model, "0.model.encoder") == rows
    model.add_module("3", nn.Identity())
    assert rows_read(model, "0.model.encoder") == "all"
