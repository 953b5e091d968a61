from __future__ import annotations

import json

import bert_op
import pytest
import torch
from op_models import hugging_face, random_batch, random_model, tiny_config
from torch import nn


def test_process_without_a_model() -> None:
    state = bert_op.explain()
    assert json.loads(json.dumps(state)) == state
    assert state["isa"] in state["isa_available"]
    assert state["threads"] == torch.get_num_threads()
    assert state["library"].endswith(".so")
    assert (state["precision"], state["skip_padding"]) == ("fp32", False)
    assert {"version", "commit", "dirty", "compiler", "torch", "isa_detected"} <= set(state)
    assert "layers" not in state
    with bert_op.using(precision="bf16"):
        assert bert_op.explain()["precision"] == "bf16"


def test_model_that_runs_the_op() -> None:
    model = bert_op.optimize(random_model(tiny_config()), "bf16_qint8")
    state = bert_op.explain(model)
    assert json.loads(json.dumps(state)) == state
    assert (state["precision"], state["skip_padding"]) == ("bf16_qint8", True)
    assert state["packed_bytes"] == model.encoder.packed_weights.numel() > 0
    assert state["fallbacks"] == []
    assert [layer["layer"] for layer in state["layers"]] == [0, 1]
    assert all(
        (layer["path"], layer["precision"], layer["quantized_activations"])
        == ("op", "bf16_qint8", "per token")
        for layer in state["layers"]
    )
    (encoder,) = state["encoders"]
    assert encoder["name"] == "encoder"
    assert encoder["packed"]["hidden_size"] == 64
    assert encoder["packed"]["bytes"] == state["packed_bytes"]


def test_model_that_fell_back() -> None:
    model = random_model(tiny_config())
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning):
        model(**random_batch(), output_hidden_states=True)
    state = bert_op.explain(model)
    assert "recorded" in state["fallbacks"][0]["reason"]
    assert {layer["path"] for layer in state["layers"]} == {"op"}  # it would run the op when called plainly


def test_model_that_would_fall_back() -> None:
    model = random_model(tiny_config())
    model.train()
    state = bert_op.explain(model)
    assert "training mode" in state["fallbacks"][0]["reason"]
    assert {layer["path"] for layer in state["layers"]} == {"original"}
    assert state["packed_bytes"] == 0


def test_model_that_was_never_converted() -> None:
    with hugging_face():
        model = random_model(tiny_config())
    state = bert_op.explain(model)
    assert state["precision"] is None
    assert {layer["path"] for layer in state["layers"]} == {"original"}
    assert "optimize" in state["fallbacks"][0]["reason"]


def test_models_that_differ_are_told_apart() -> None:
    both = nn.ModuleDict({"left": random_model(tiny_config()), "right": random_model(tiny_config())})
    bert_op.optimize(both["left"], "bf16")
    state = bert_op.explain(both)
    assert state["precision"] == ["bf16", "fp32"]
    assert [layer["encoder"] for layer in state["layers"]] == ["left.encoder"] * 2 + ["right.encoder"] * 2


def test_model_without_a_supported_encoder() -> None:
    state = bert_op.explain(nn.Linear(2, 2))
    assert (state["encoders"], state["layers"], state["precision"]) == ([], [], None)
