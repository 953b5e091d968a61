"""What int8 is coarse for: single weights, channels and tokens, found and said."""

from __future__ import annotations

import warnings
from typing import Any

import bert_op
import pytest
import torch
from bert_op import BertOpWarning
from bert_op._causes import cause_of, lone_weights
from bert_op._packing import read_sources
from op_models import make_output_coarse, random_batch, random_model, tiny_config

PLACES = {
    "qkv": ("attention.self.key", (3, 5), (64 + 3, 5)),
    "attention_output": ("attention.output.dense", (7, 60), (7, 60)),
    "intermediate": ("intermediate.dense", (95, 0), (95, 0)),
    "output": ("output.dense", (1, 80), (1, 80)),
}


def with_lone_weight(linear: str, size: float = 400.0) -> Any:
    model = random_model(tiny_config())
    path, at, _ = PLACES[linear]
    weight = model.encoder.layer[1].get_submodule(path).weight
    with torch.no_grad():
        weight[at] = size * weight.std()
    return model


@pytest.mark.parametrize("linear", PLACES)
def test_lone_weight_is_found_said_and_pointed_at(linear: str) -> None:
    model = with_lone_weight(linear)
    first, second = read_sources(model.encoder, model.encoder.family).layers
    assert lone_weights(first) == []
    (lone,) = lone_weights(second)
    assert (lone.linear, (lone.row, lone.column)) == (linear, PLACES[linear][2])
    assert 200 < lone.ratio < 800
    with pytest.warns(
        BertOpWarning, match=rf"a linear layer has .* of layer 1, .* keep_layers=\['1.{linear}'\]"
    ):
        bert_op.optimize(model, "bf16_qint8")
    error = bert_op.explain(model, random_batch(4, 20))["layers"][1]["error"]
    assert set(error["linears"]) == set(PLACES)
    if error["worst"] == linear:
        assert f"of {linear} is" in error["cause"]


def test_nothing_is_said_of_what_is_kept_or_not_quantized_or_was_said() -> None:
    model = with_lone_weight("output")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bert_op.optimize(model, "bf16")
        bert_op.optimize(model, "bf16_qint8", keep_layers=["1.output"])
        bert_op.optimize(random_model(tiny_config()), "bf16_qint8")
    with pytest.warns(BertOpWarning, match="single weight sets"):
        bert_op.optimize(model, "bf16_qint8", keep_layers=[])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bert_op.optimize(model, "fp32_qint8")


def test_the_worst_linear_layer_of_a_layer_is_named() -> None:
    model = random_model(tiny_config())
    make_output_coarse(model.encoder.layer[0])
    bert_op.optimize(model, "fp32_qint8")
    error = bert_op.explain(model, random_batch(4, 20))["layers"][0]["error"]
    assert error["worst"] == "output" == max(error["linears"], key=error["linears"].get)
    bert_op.optimize(model, "fp32_qint8", keep_layers=["0.output"])
    kept = bert_op.explain(model, random_batch(4, 20))["layers"][0]["error"]
    assert "output" not in kept["linears"] and kept["relative_error"] < error["relative_error"] / 2


def test_token_and_channel_are_named() -> None:
    errors = torch.tensor([0.1, 0.1, 5.0, 0.1, 0.1, 0.1])
    assert "number 2" in cause_of("qkv", [], None, errors)
    inputs = torch.ones(6, 8)
    inputs[:, 3] = 50.0
    assert cause_of("qkv", [], inputs, torch.ones(6)).startswith(
        "channel 3 of what qkv multiplies is 50 times"
    )
    assert "no single" in cause_of("qkv", [], torch.ones(6, 8), torch.ones(6))
