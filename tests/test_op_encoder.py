"""The drop-in encoder: masks, and what it leaves to Hugging Face."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import bert_op
import pytest
import torch
from op_models import model_pair, random_batch, random_model, runs_op, tiny_config
from torch import Tensor
from transformers import (
    AttentionInterface,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

TOLERANCE = 2e-5


def mask_forms(batch: int, seq_len: int, heads: int) -> dict[str, Tensor | None]:
    """The forms of a padding mask that reach an encoder, and general 4-D ones."""
    keep = random_batch(batch, seq_len)["attention_mask"].bool()
    lowest = torch.finfo(torch.float32).min
    additive = torch.zeros(batch, 1, 1, seq_len).masked_fill(~keep[:, None, None, :], lowest)
    causal = torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
    return {
        "none": None,
        "4-D bool expanded": keep[:, None, None, :].expand(batch, 1, seq_len, seq_len),
        "4-D bool": keep[:, None, None, :].repeat(1, 1, seq_len, 1),
        "4-D bool one row": keep[:, None, None, :],
        "4-D bool causal": causal[None, None] & keep[:, None, None, :],
        "4-D bool one batch": causal[None, None],
        "4-D additive": additive.repeat(1, 1, seq_len, 1),
        "4-D additive bf16": additive.bfloat16().clamp(min=torch.finfo(torch.bfloat16).min),
        "4-D additive infinite": additive.masked_fill(additive < 0, -torch.inf),
        "4-D bias per head": torch.randn(batch, heads, seq_len, seq_len),
    }


@pytest.mark.parametrize("name", mask_forms(1, 1, 1))
def test_mask_forms_at_the_encoder(name: str) -> None:
    model, reference = model_pair(tiny_config(attn_implementation="sdpa"))
    hidden_states = torch.randn(3, 10, 64)
    mask = mask_forms(3, 10, 2)[name]
    # sdpa takes an additive mask in the dtype of the hidden states only.
    for_reference = mask.float() if mask is not None and mask.dtype == torch.bfloat16 else mask
    before = hidden_states.clone(), None if mask is None else mask.clone()
    with torch.no_grad():
        output = model.encoder(hidden_states, attention_mask=mask)
        expected = reference.encoder(hidden_states, attention_mask=for_reference)
    assert type(output) is type(expected) is BaseModelOutputWithPastAndCrossAttentions
    torch.testing.assert_close(
        output.last_hidden_state, expected.last_hidden_state, atol=TOLERANCE, rtol=TOLERANCE
    )
    assert torch.equal(hidden_states, before[0])
    assert mask is None or torch.equal(mask, before[1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_two_dimensional_masks_at_the_encoder(dtype: torch.dtype) -> None:
    model, reference = model_pair(tiny_config())
    hidden_states = torch.randn(3, 10, 64)
    keep = random_batch(3, 10)["attention_mask"]
    with torch.no_grad():
        output = model.encoder(hidden_states, attention_mask=keep.to(dtype))[0]
        expected = reference.encoder(hidden_states, attention_mask=keep[:, None, None, :].bool())[0]
    torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("skip_padding", [False, True])
def test_model_agrees_with_hugging_face(attention: str, padded: bool, skip_padding: bool) -> None:
    model, reference = model_pair(tiny_config(attn_implementation=attention))
    bert_op.optimize(model, "fp32", skip_padding=skip_padding)
    inputs = random_batch()
    keep = inputs["attention_mask"].bool()
    if not padded:
        keep = torch.ones_like(keep)
        inputs["attention_mask"] = keep.long()
    with torch.no_grad():
        output, expected = model(**inputs), reference(**inputs)
    state, expected_state = output.last_hidden_state, expected.last_hidden_state
    torch.testing.assert_close(state[keep], expected_state[keep], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(output.pooler_output, expected.pooler_output, atol=TOLERANCE, rtol=TOLERANCE)
    if skip_padding:
        assert torch.all(state[~keep] == 0)
    else:
        torch.testing.assert_close(state, expected_state, atol=TOLERANCE, rtol=TOLERANCE)
    assert bert_op.explain(model)["fallbacks"] == []


def test_tuple_is_returned_where_it_is_asked_for() -> None:
    model, reference = model_pair(tiny_config())
    inputs = random_batch()
    with torch.no_grad():
        output, expected = model(**inputs, return_dict=False), reference(**inputs, return_dict=False)
    assert isinstance(output, tuple)
    assert len(output) == len(expected)
    torch.testing.assert_close(output[0], expected[0], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "model_class",
    [BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering, BertForMaskedLM],
)
def test_heads_agree_with_hugging_face(model_class: type) -> None:
    model, reference = model_pair(tiny_config(), model_class)
    inputs = random_batch()
    with torch.inference_mode():
        output, expected = model(**inputs).to_tuple(), reference(**inputs).to_tuple()
    assert bert_op.explain(model)["fallbacks"] == []
    for value, expected_value in zip(output, expected, strict=True):
        torch.testing.assert_close(value, expected_value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_keep_their_dtype(dtype: torch.dtype) -> None:
    model, _ = model_pair(tiny_config())
    model.to(dtype)
    with torch.no_grad():
        assert model(**random_batch()).last_hidden_state.dtype == dtype
    assert bert_op.explain(model)["fallbacks"] == []


def test_any_batch_and_length_on_every_call() -> None:
    model, reference = model_pair(tiny_config())
    for batch, seq_len in [(2, 7), (1, 1), (5, 33), (1, 512), (2, 7)]:
        inputs = random_batch(batch, seq_len)
        with torch.no_grad():
            output = model(**inputs).last_hidden_state
            expected = reference(**inputs).last_hidden_state
        torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "shape", [(3, 9), (2, 10), (3, 1, 9, 10), (3, 1, 10, 9), (3, 3, 10, 10), (3, 10, 10)]
)
def test_mask_of_a_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    model = random_model(tiny_config())
    with pytest.raises(RuntimeError, match="attention_mask") as error, torch.no_grad():
        model.encoder(torch.randn(3, 10, 64), attention_mask=torch.ones(shape, dtype=torch.bool))
    assert str(shape[-1]) in str(error.value).splitlines()[0]


# What the operator does not do. Each entry changes two equal models (with the op, without it) in the same way
# if need be, and returns what both have to be called with.

Case = Callable[[Any], dict[str, Any]]


def _hook(model: Any) -> dict[str, Any]:
    model.encoder.layer[0].attention.self.query.register_forward_hook(lambda module, args, output: 2 * output)
    return {}


def _patched_forward(model: Any) -> dict[str, Any]:
    layer = model.encoder.layer[1]
    layer.forward = lambda hidden_states, *args, **kwargs: -hidden_states
    return {}


def _replaced_linear(model: Any) -> dict[str, Any]:
    class Doubled(torch.nn.Linear):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * super().forward(hidden_states)

    torch.manual_seed(5)
    model.encoder.layer[0].output.dense = Doubled(96, 64)
    return {}


def _custom_attention(model: Any) -> dict[str, Any]:
    def keep_values(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        return value.transpose(1, 2).contiguous(), None

    AttentionInterface.register("values_only", keep_values)
    model.config._attn_implementation = "values_only"
    return {}


FALLBACKS: dict[str, tuple[Case, str]] = {
    "hidden states": (lambda model: {"output_hidden_states": True}, "recorded"),
    "a hook": (_hook, "hooks are registered"),
    "a patched forward": (_patched_forward, "forward method"),
    "a replaced module": (_replaced_linear, "type .*Doubled"),
    "another attention": (_custom_attention, "attention implementation is 'values_only'"),
    "double precision": (lambda model: model.double() and {}, "float64"),
    "an unknown argument": (lambda model: {"is_causal": True}, "argument is_causal"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_original_path_runs(name: str) -> None:
    prepare, reason = FALLBACKS[name]
    model, reference = model_pair(tiny_config())
    arguments = prepare(model)
    prepare(reference)
    inputs = {"input_ids": random_batch()["input_ids"], **arguments}
    with torch.no_grad():
        with pytest.warns(bert_op.BertOpWarning, match=reason):
            output = model(**inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(**inputs)  # says it once
        expected = reference(**inputs)
    assert any(re.search(reason, fallback["reason"]) for fallback in bert_op.explain(model)["fallbacks"])
    assert list(output) == list(expected)
    torch.testing.assert_close(output.to_tuple(), expected.to_tuple(), atol=0, rtol=0)


def test_attentions_are_recorded_by_the_original_path() -> None:
    model, reference = model_pair(tiny_config(attn_implementation="eager"))
    inputs = random_batch()
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="recorded"):
        output = model(**inputs, output_attentions=True)
        expected = reference(**inputs, output_attentions=True)
    assert len(output.attentions) == 2
    torch.testing.assert_close(output.attentions, expected.attentions, atol=0, rtol=0)


def test_op_runs_again_after_hidden_states_were_recorded() -> None:
    model, _ = model_pair(tiny_config())
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning):
        model(**random_batch(), output_hidden_states=True)
    assert runs_op(model.encoder)


def test_hidden_states_asked_for_by_the_config_are_recorded() -> None:
    model, _ = model_pair(tiny_config(output_hidden_states=True))
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="recorded"):
        assert len(model(**random_batch()).hidden_states) == 3


def test_decoder_runs_the_original_path() -> None:
    model, reference = model_pair(tiny_config(is_decoder=True), BertLMHeadModel)
    inputs = random_batch()
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="cache|decoder"):
        output = model(**inputs)
    with torch.no_grad():
        expected = reference(**inputs)
    torch.testing.assert_close(output.logits, expected.logits, atol=0, rtol=0)
    assert len(output.past_key_values) == len(expected.past_key_values) == 2


def test_cross_attention_runs_the_original_path() -> None:
    config = tiny_config(is_decoder=True, add_cross_attention=True, use_cache=False)
    model, reference = model_pair(config)
    inputs = {**random_batch(), "encoder_hidden_states": torch.randn(3, 6, 64)}
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="cross attention"):
        output = model(**inputs).last_hidden_state
    with torch.no_grad():
        torch.testing.assert_close(output, reference(**inputs).last_hidden_state, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "silu"}, "activation 'silu'"),
        ({"num_attention_heads": 4}, "head size 16"),
        ({"intermediate_size": 100}, "multiples of 32"),
    ],
)
def test_unsupported_architecture_runs_the_original_path(changes: dict[str, Any], reason: str) -> None:
    model, reference = model_pair(tiny_config(**changes))
    inputs = random_batch()
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match=reason):
        output = model(**inputs).last_hidden_state
    with torch.no_grad():
        torch.testing.assert_close(output, reference(**inputs).last_hidden_state, atol=0, rtol=0)


@pytest.mark.parametrize(
    "activation",
    ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python", "relu"],
)
def test_activations(activation: str) -> None:
    model, reference = model_pair(tiny_config(hidden_act=activation, initializer_range=0.3))
    inputs = random_batch()
    with torch.no_grad():
        output = model(**inputs).last_hidden_state
        expected = reference(**inputs).last_hidden_state
    assert runs_op(model.encoder)
    torch.testing.assert_close(output, expected, atol=5e-5, rtol=5e-5)


def test_training_runs_the_original_path_with_gradients() -> None:
    model, reference = model_pair(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    inputs = random_batch()
    model.train()
    reference.train()
    with pytest.warns(bert_op.BertOpWarning, match="training mode"):
        model(**inputs).pooler_output.sum().backward()
    reference(**inputs).pooler_output.sum().backward()
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, other.grad, atol=0, rtol=0)


def test_gradients_in_evaluation_mode_run_the_original_path() -> None:
    model, reference = model_pair(tiny_config())
    embeddings = torch.randn(2, 5, 64, requires_grad=True)
    with pytest.warns(bert_op.BertOpWarning, match="gradients may be asked for"):
        (gradient,) = torch.autograd.grad(model(inputs_embeds=embeddings)[0].square().sum(), embeddings)
    (expected,) = torch.autograd.grad(reference(inputs_embeds=embeddings)[0].square().sum(), embeddings)
    torch.testing.assert_close(gradient, expected, atol=0, rtol=0)


def test_frozen_model_runs_the_op_with_gradients_enabled() -> None:
    model = random_model(tiny_config()).requires_grad_(False)
    assert torch.is_grad_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**random_batch())
    model.encoder.layer[1].output.dense.bias.requires_grad_(True)
    with pytest.warns(bert_op.BertOpWarning, match="gradients"):
        assert model(**random_batch()).last_hidden_state.requires_grad


def test_one_dropout_in_training_mode_is_noticed() -> None:
    model = random_model(tiny_config(hidden_dropout_prob=0.5))
    model.encoder.layer[0].output.dropout.train()
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="in training mode"):
        first, second = (model(**random_batch()).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)


def test_function_transforms_run_the_original_path() -> None:
    model, reference = model_pair(tiny_config(attn_implementation="eager"))
    point, direction = torch.randn(2, 5, 64), torch.randn(2, 5, 64)
    with pytest.warns(bert_op.BertOpWarning, match="transform"):
        _, slope = torch.func.jvp(lambda x: model.encoder(x)[0], (point,), (direction,))
    _, expected = torch.func.jvp(lambda x: reference.encoder(x)[0], (point,), (direction,))
    torch.testing.assert_close(slope, expected)
