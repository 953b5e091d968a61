from __future__ import annotations

import json
import os

import bert_op
import pytest
import torch
from op_models import hugging_face, make_output_coarse, random_batch, random_model, tiny_config
from torch import nn


def test_process_without_a_model() -> None:
    state = bert_op.explain()
    assert json.loads(json.dumps(state)) == state
    assert state["isa"] in state["isa_available"]
    assert state["threads"] == min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    assert state["library"].endswith(".so")
    assert (state["precision"], state["skip_padding"]) == ("follows the model", False)
    assert {"version", "commit", "dirty", "compiler", "torch", "isa_detected"} <= set(state)
    assert "layers" not in state
    with bert_op.using(precision="bf16"):
        assert bert_op.explain()["precision"] == "bf16"


def test_model_that_runs_the_op() -> None:
    model = bert_op.optimize(random_model(tiny_config()), "bf16_qint8")
    state = bert_op.explain(model)
    assert json.loads(json.dumps(state)) == state
    assert (state["precision"], state["skip_padding"]) == ("bf16_qint8", "auto")
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


def test_error_of_each_layer_on_real_inputs() -> None:
    model = random_model(tiny_config(num_hidden_layers=3))
    errors = {}
    for precision in ("fp32", "bf16", "bf16_qint8"):
        bert_op.optimize(model, precision)
        packed = model.encoder.packed_weights
        state = bert_op.explain(model, random_batch(4, 20))
        assert json.loads(json.dumps(state)) == state
        assert model.encoder.packed_weights is packed
        assert [set(layer) for layer in state["layers"]] == [
            {*bert_op.explain(model)["layers"][0], "error"}
        ] * 3
        errors[precision] = [layer["error"]["relative_error"] for layer in state["layers"]]
    assert errors["fp32"] == [0, 0, 0]
    assert all(
        0 < bf16 < int8 / 2 < 0.1 for bf16, int8 in zip(errors["bf16"], errors["bf16_qint8"], strict=True)
    )


def test_error_of_a_layer_is_found_where_it_is() -> None:
    model = random_model(tiny_config(num_hidden_layers=3))
    make_output_coarse(model.encoder.layer[1])
    bert_op.optimize(model, "fp32_qint8")
    layers = [layer["error"] for layer in bert_op.explain(model, random_batch(4, 20))["layers"]]
    cosines = [layer["cosine_min"] for layer in layers]
    assert cosines[1] < 0.99 < min(cosines[0], cosines[2])
    assert all(layer["cosine_min"] <= layer["cosine"] <= 1 + 1e-12 for layer in layers)
    bert_op.optimize(model, "fp32_qint8", keep_layers=["layer.1"])
    layers = [layer["error"] for layer in bert_op.explain(model, random_batch(4, 20))["layers"]]
    assert layers[1]["relative_error"] == 0


def test_error_does_not_count_padding() -> None:
    model = bert_op.optimize(random_model(tiny_config()), "bf16_qint8")
    inputs = random_batch(1, 6)
    padded = {name: torch.nn.functional.pad(value, (0, 10)) for name, value in inputs.items()}
    alone, with_padding = (bert_op.explain(model, batch)["layers"] for batch in (inputs, padded))
    for one, other in zip(alone, with_padding, strict=True):
        assert one["error"]["cosine_min"] == pytest.approx(other["error"]["cosine_min"], abs=1e-9)


def test_error_that_cannot_be_measured() -> None:
    model = random_model(tiny_config())
    with pytest.raises(ValueError, match="no model"):
        bert_op.explain(None, random_batch())
    with pytest.raises(TypeError, match="a batch is"):
        bert_op.explain(model, "text")
    model.train()
    with pytest.warns(bert_op.BertOpWarning), pytest.raises(ValueError, match="no encoder of the model ran"):
        bert_op.explain(model, random_batch())
    bert_op.optimize(model.eval(), "bf16", free_original=True)
    with pytest.raises(ValueError, match="free_original=True"):
        bert_op.explain(model, random_batch())


def test_plan_of_a_batch() -> None:
    model = bert_op.optimize(random_model(tiny_config()), "bf16_qint8", skip_padding=True)
    batch = random_batch(5, 20)
    state = bert_op.explain(model, batch)
    assert json.loads(json.dumps(state)) == state
    (plan,) = state["plan"]
    assert plan["encoder"] == "encoder"
    assert 1 <= plan["threads"] <= plan["threads_allowed"] == state["threads"]
    assert sum(team["members"] for team in plan["teams"]) == plan["threads"]
    slices = [part for team in plan["teams"] for part in team["slices"]]
    assert sum(part["sequences"] for part in slices) == 5
    assert sum(part["rows"] for part in slices) == batch["attention_mask"].sum().item()
    assert plan["microseconds"] > 0
    assert 0 < plan["efficiency"] <= 1
    assert plan["workspace_bytes"] > 0


def test_plan_for_other_numbers_of_threads() -> None:
    (packed,) = bert_op.optimize(random_model(tiny_config()), "fp32").encoder.ready(gradients=False)
    state = torch.randn(3, 40, 64)
    (alone,) = json.loads(torch.ops.bert_op.plan(state, None, [packed], threads=1))
    assert (alone["threads"], alone["barriers"], alone["efficiency"]) == (1, 0, 1.0)
    for threads in (2, 3, 64):
        (plan,) = json.loads(torch.ops.bert_op.plan(state, None, [packed], threads=threads))
        assert plan["threads"] <= threads
        assert plan["microseconds"] <= alone["microseconds"]
