from __future__ import annotations

import copy
import pickle
from typing import Any

import bert_op
import pytest
import torch
from bert_op._policy import PRECISIONS, Policy
from op_models import hugging_face, model_pair, random_batch, random_model, runs_op, tiny_config
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)


class Embedder(nn.Sequential):
    """Shaped like a model of sentence-transformers: modules in a row, the first one holding a BERT model."""

    def __init__(self, auto_model: BertModel) -> None:
        transformer = nn.Module()
        transformer.auto_model = auto_model
        super().__init__(transformer, nn.Identity())

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        states = self[0].auto_model(**features).last_hidden_state
        weights = features["attention_mask"][..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    return nn.functional.cosine_similarity(left.float().flatten(), right.float().flatten(), dim=0).item()


@pytest.mark.parametrize(
    "model_class",
    [
        BertModel,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMaskedLM,
    ],
)
def test_existing_models_with_any_head(model_class: type) -> None:
    with hugging_face():
        model = random_model(tiny_config(), model_class)
    inputs = random_batch()
    inputs["attention_mask"][:] = 1
    with torch.no_grad():
        expected = model(**inputs).to_tuple()
        assert bert_op.optimize(model, precision="fp32") is model
        output = model(**inputs).to_tuple()
    assert [layer["path"] for layer in bert_op.explain(model)["layers"]] == ["op", "op"]
    for value, expected_value in zip(output, expected, strict=True):
        torch.testing.assert_close(value, expected_value, atol=1e-4, rtol=1e-4)


def test_wrapped_model() -> None:
    with hugging_face():
        embedder = Embedder(random_model(tiny_config())).eval()
    inputs = random_batch()
    with torch.no_grad():
        expected = embedder(inputs)
        output = bert_op.optimize(embedder, "fp32")(inputs)
    assert runs_op(embedder[0].auto_model.encoder)
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions_stay_close_to_hugging_face(precision: str) -> None:
    model, reference = model_pair(tiny_config())
    bert_op.optimize(model, precision)
    inputs = random_batch(4, 20)
    keep = inputs["attention_mask"].bool()
    with torch.no_grad():
        output = model(**inputs).last_hidden_state[keep]
        expected = reference(**inputs).last_hidden_state[keep]
    assert bert_op.explain(model)["precision"] == precision
    assert cosine(output, expected) > {"fp32": 0.999999, "bf16": 0.9995}.get(precision, 0.998)
    if precision != "fp32":
        assert not torch.allclose(output, expected, atol=1e-5)  # it really is another precision


def test_restore_is_the_exact_inverse() -> None:
    with hugging_face():
        model = random_model(tiny_config())
    untouched = pickle.dumps(model)
    encoder, attributes = model.encoder, set(model.encoder.__dict__)
    with torch.no_grad():
        expected = model(**random_batch()).last_hidden_state
    bert_op.optimize(model, "bf16_qint8")
    assert pickle.dumps(model) != untouched
    assert bert_op.restore(model) is model
    assert model.encoder is encoder
    assert type(encoder) is bert_op.BertEncoderOp.family.encoder
    assert set(encoder.__dict__) == attributes
    assert not encoder._buffers
    assert not encoder._non_persistent_buffers_set
    assert not encoder._load_state_dict_post_hooks
    with torch.no_grad():
        assert torch.equal(model(**random_batch()).last_hidden_state, expected)
    bert_op.restore(model)  # there is nothing left to do


def test_optimize_changes_the_precision_of_an_optimized_model() -> None:
    model = random_model(tiny_config())
    bert_op.optimize(model, "bf16")
    with torch.no_grad():
        once = model(**random_batch()).last_hidden_state
        bert_op.optimize(bert_op.optimize(model, "fp32"), "bf16")
        assert torch.equal(model(**random_batch()).last_hidden_state, once)


def test_precision_defaults_to_config_and_policy() -> None:
    model = random_model(tiny_config())
    with bert_op.using(precision="bf16"):
        assert bert_op.optimize(model).encoder.op_policy == Policy("bf16", skip_padding="auto")
    model = random_model(tiny_config(use_quantization=True))
    assert bert_op.optimize(model).encoder.op_policy.precision == "fp32_qint8"
    assert bert_op.optimize(model, "bf16").encoder.op_policy.precision == "bf16"
    assert bert_op.optimize(model).encoder.op_policy.precision == "bf16"  # it is saved in the config
    model = random_model(tiny_config(use_bfloat16=True))
    assert bert_op.optimize(model).encoder.op_policy.precision == "bf16"
    assert bert_op.optimize(random_model(tiny_config())).encoder.op_policy.precision == "bf16_qint8"


def test_model_in_training_mode_is_converted_and_packed_later() -> None:
    with hugging_face():
        model = random_model(tiny_config()).train()
    bert_op.optimize(model, "fp32")
    assert model.training
    model.eval()
    assert runs_op(model.encoder)


def test_unsupported_model_is_converted_with_a_warning() -> None:
    with hugging_face():
        model = random_model(tiny_config(hidden_act="silu"))
    with pytest.warns(bert_op.BertOpWarning, match="activation 'silu'"):
        bert_op.optimize(model, "bf16")
    assert "silu" in bert_op.explain(model)["fallbacks"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"precision": "int8"}, ValueError, "precision='int8' is unknown: choose one of fp32, fp32_qint8"),
        ({"precison": "bf16"}, TypeError, "no option 'precison': it has skip_padding, free_original"),
        ({"skip_padding": 1}, TypeError, "skip_padding=1"),
        ({"precision": "bf16", "quantization_factors": [0.0] * 16}, ValueError, "int8 precisions"),
        ({"precision": "bf16_qint8", "quantization_factors": [0.0] * 15}, ValueError, "15 values"),
    ],
)
def test_wrong_options_are_refused_and_leave_the_model_alone(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with hugging_face():
        model = random_model(tiny_config())
    with pytest.raises(error, match=message):
        bert_op.optimize(model, **arguments)
    assert type(model.encoder) is bert_op.BertEncoderOp.family.encoder


def test_models_without_a_supported_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear contains no encoder .* it knows bert, roberta"):
        bert_op.optimize(nn.Linear(2, 2), "bf16")
    with pytest.raises(TypeError, match=r"takes an nn.Module, not str"):
        bert_op.optimize("bert-base-uncased", "bf16")  # type: ignore[arg-type]


def test_weight_that_is_not_finite_leaves_every_encoder_as_it_was() -> None:
    with hugging_face():
        good, bad = random_model(tiny_config()), random_model(tiny_config())
    with torch.no_grad():
        bad.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
    both = nn.ModuleList([good, bad])
    with pytest.raises(RuntimeError, match=r"output\.dense\.weight"):
        bert_op.optimize(both, "bf16")
    assert all(type(model.encoder) is bert_op.BertEncoderOp.family.encoder for model in both)
    with pytest.raises(RuntimeError, match=r"output\.dense\.weight"):
        bert_op.optimize(both, "bf16", free_original=True)
    assert all(type(model.encoder) is bert_op.BertEncoderOp.family.encoder for model in both)
    assert not any(parameter.is_meta for parameter in both.parameters())


def test_weights_are_not_freed_where_the_config_asks_for_the_original_path() -> None:
    model = random_model(tiny_config(attn_implementation="flex_attention"))
    with pytest.raises(ValueError, match=r"free_original=True is impossible.*flex_attention"):
        bert_op.optimize(model, "fp32", free_original=True)
    assert not any(parameter.is_meta for parameter in model.parameters())
    with pytest.warns(bert_op.BertOpWarning, match="flex_attention"):
        bert_op.optimize(model, "fp32")
    assert {layer["path"] for layer in bert_op.explain(model)["layers"]} == {"original"}


def test_factors_may_be_an_array() -> None:
    model = random_model(tiny_config())
    factors = bert_op.calibrate(model, [random_batch()])
    bert_op.optimize(model, "bf16_qint8", quantization_factors=torch.tensor(factors).numpy())
    assert model.encoder.op_policy.quantization_factors == pytest.approx(factors)


def test_free_original_gives_up_the_weights_and_says_what_that_costs(tmp_path: Any) -> None:
    model, reference = model_pair(tiny_config())
    bert_op.optimize(model, "fp32", free_original=True, skip_padding=False)
    assert all(parameter.is_meta for parameter in model.encoder.parameters())
    assert not any(parameter.is_meta for parameter in model.embeddings.parameters())
    with torch.inference_mode():
        expected = reference(**random_batch()).last_hidden_state
        for candidate in (
            model,
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            model.train().eval(),
        ):
            output = candidate(**random_batch()).last_hidden_state
            torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)
        with pytest.raises(RuntimeError, match=r"freed by optimize.*recorded.*Load the model again"):
            model(**random_batch(), output_hidden_states=True)
    for action in (
        lambda: bert_op.restore(model),
        lambda: bert_op.optimize(model, "bf16"),
        lambda: model.state_dict(),
        lambda: model.save_pretrained(tmp_path),
        lambda: model.load_state_dict(reference.state_dict()),
    ):
        with pytest.raises(RuntimeError, match=r"freed by optimize.*Load the model again"):
            action()
    traced = torch.jit.freeze(torch.jit.trace(model.encoder, torch.randn(1, 4, 64), strict=False).eval())
    assert "bert_op::encoder" in str(traced.inlined_graph)


def test_free_original_is_refused_where_the_op_cannot_run() -> None:
    with hugging_face():
        model = random_model(tiny_config(hidden_act="silu"))
    with pytest.raises(ValueError, match=r"free_original=True is impossible.*activation 'silu'"):
        bert_op.optimize(model, "bf16", free_original=True)
    assert type(model.encoder) is bert_op.BertEncoderOp.family.encoder
    with hugging_face():
        model = random_model(tiny_config()).train()
    with pytest.raises(ValueError, match=r"call model.eval"):
        bert_op.optimize(model, "bf16", free_original=True)
    assert type(model.encoder) is bert_op.BertEncoderOp.family.encoder
