from __future__ import annotations

from typing import Any

import bert_op
import pytest
import torch
from op_models import hugging_face, model_pair, random_batch, random_model, runs_op, tiny_config


def ranges_by_hand(reference: Any, inputs: dict[str, Any]) -> list[float]:
    """The same ranges from Hugging Face's hidden states and one layer computed step by step."""
    factors: list[float] = []
    with torch.no_grad():
        states = reference(**inputs, output_hidden_states=True).hidden_states
        for layer, state in zip(reference.encoder.layer, states[:-1], strict=True):
            mask = inputs["attention_mask"][:, None, None, :].bool()
            context = layer.attention.self(state, attention_mask=mask)[0]
            attended = layer.attention.output(context, state)
            intermediate = layer.intermediate(attended)
            for value in (state, context, attended, intermediate):
                factors += [value.min().item(), value.max().item()]
    return factors


@pytest.mark.parametrize("with_op", [True, False])
def test_ranges_are_those_of_the_inputs_of_the_linear_layers(with_op: bool) -> None:
    model, reference = model_pair(tiny_config())
    factors = bert_op.calibrate(model if with_op else reference, [random_batch(seed=1)])
    assert len(factors) == 16
    assert factors == pytest.approx(ranges_by_hand(reference, random_batch(seed=1)), abs=1e-5)
    assert runs_op(model.encoder)
    assert bert_op.explain(model)["fallbacks"] == []


def test_ranges_of_several_batches_are_their_union() -> None:
    model = random_model(tiny_config())
    first, second = random_batch(seed=1), random_batch(seed=2)
    apart = bert_op.calibrate(model, [first]), bert_op.calibrate(model, iter([second]))
    together = bert_op.calibrate(model, [first, second])
    assert together[::2] == [min(pair) for pair in zip(apart[0][::2], apart[1][::2], strict=True)]
    assert together[1::2] == [max(pair) for pair in zip(apart[0][1::2], apart[1][1::2], strict=True)]


def test_batches_may_be_tensors_or_tuples_and_the_mode_is_kept() -> None:
    model = random_model(tiny_config()).train()
    inputs = random_batch()
    as_tensor = bert_op.calibrate(model, [inputs["input_ids"]])
    assert as_tensor == bert_op.calibrate(model, [(inputs["input_ids"],)])
    assert model.training
    assert type(model.encoder) is bert_op.BertEncoderOp


@pytest.mark.parametrize("precision", ["fp32_qint8", "bf16_qint8"])
def test_static_factors_are_used(precision: str) -> None:
    model, reference = model_pair(tiny_config())
    inputs = random_batch(4, 20)
    keep = inputs["attention_mask"].bool()
    factors = bert_op.calibrate(model, [inputs])
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state[keep]
        dynamic = bert_op.optimize(model, precision)(**inputs).last_hidden_state[keep]
        bert_op.optimize(model, precision, quantization_factors=factors)
        static = model(**inputs).last_hidden_state[keep]
        bert_op.optimize(model, precision, quantization_factors=[value / 20 for value in factors])
        clipped = model(**inputs).last_hidden_state[keep]
    explained = bert_op.explain(model)
    assert explained["encoders"][0]["packed"]["static_quantization"] is True
    assert {layer["quantized_activations"] for layer in explained["layers"]} == {"static"}
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(static.flatten(), expected.flatten(), dim=0) > 0.99
    assert not torch.equal(static, dynamic)
    assert similarity(clipped.flatten(), expected.flatten(), dim=0) < 0.97  # the factors really clip


def test_config_flag_records_factors_into_the_config() -> None:
    config = tiny_config(use_quantization=True, calibrate_quant_factors=True)
    model = random_model(config)
    plain = random_model(tiny_config())
    batches = [random_batch(seed=1), random_batch(seed=2)]
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="calibrate_quant_factors is set"):
        for inputs in batches:
            model(**inputs)
    assert model.config.quantization_factors == bert_op.calibrate(plain, batches)
    model.config.calibrate_quant_factors = False
    with torch.no_grad():
        model(**batches[0])
    assert bert_op.explain(model)["encoders"][0]["packed"]["static_quantization"] is True


def test_config_flag_keeps_every_argument_and_its_result() -> None:
    model, reference = model_pair(tiny_config(calibrate_quant_factors=True))
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning):
        output = model(**random_batch(), output_hidden_states=True)
    with torch.no_grad():
        expected = reference(**random_batch(), output_hidden_states=True)
    torch.testing.assert_close(output.hidden_states, expected.hidden_states, atol=0, rtol=0)


def test_what_cannot_be_calibrated_is_refused() -> None:
    model = random_model(tiny_config())
    with pytest.raises(TypeError, match="a single batch"):
        bert_op.calibrate(model, random_batch())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not str"):
        bert_op.calibrate(model, ["input_ids"])
    with pytest.raises(ValueError, match="no batch"):
        bert_op.calibrate(model, [])
    with pytest.raises(ValueError, match="has 2"):
        bert_op.calibrate(torch.nn.ModuleList([model, random_model(tiny_config())]), [random_batch()])
    with hugging_face():
        broken = random_model(tiny_config())
    with torch.no_grad():
        broken.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        bert_op.calibrate(broken, [random_batch()])
    assert not any(module._forward_pre_hooks for module in broken.modules())
