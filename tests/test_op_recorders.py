"""Transforms of functions, recorders of graphs, and models that change after they were recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from op_models import model_pair, random_batch, tiny_config
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

TOLERANCE = 3e-5


def encoders() -> tuple[Any, Any]:
    model, reference = model_pair(tiny_config(attn_implementation="eager"))
    return model.encoder, reference.encoder


def test_vmap_over_stacked_weights() -> None:
    encoder, reference = encoders()
    other = copy.deepcopy(reference)
    with torch.no_grad():
        other.layer[0].output.dense.weight.mul_(2)
    states = torch.randn(1, 5, 64)
    parameters, buffers = stack_module_state([reference, other])
    encoder.requires_grad_(False)

    def call(module: nn.Module) -> Callable[[Any, Any], Tensor]:
        return lambda p, b: functional_call(module, (p, b), (states,)).last_hidden_state

    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="transform"):
        found = vmap(call(encoder))(parameters, buffers)
    with torch.no_grad():
        torch.testing.assert_close(found, vmap(call(reference))(parameters, buffers))
        assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_derivatives_by_transforms() -> None:
    encoder, reference = encoders()
    states = torch.randn(1, 3, 64)
    weights = {name: value.detach() for name, value in reference.named_parameters()}

    def loss(module: nn.Module) -> Callable[[Any], Tensor]:
        return lambda weights: functional_call(module, weights, (states,)).last_hidden_state.square().sum()

    with pytest.warns(bert_op.BertOpWarning, match="transform"):
        found = torch.func.grad(loss(encoder))(weights)
    expected = torch.func.grad(loss(reference))(weights)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    found = torch.func.jacrev(lambda states: encoder(states)[0].sum(-1))(states)
    torch.testing.assert_close(found, torch.func.jacrev(lambda states: reference(states)[0].sum(-1))(states))


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_export_records_the_original_path(dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="it is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="it is not installed")
    encoder, _ = encoders()
    inputs = (torch.randn(1, 4, 64),)
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="ONNX"):
        torch.onnx.export(encoder, inputs, tmp_path / "encoder.onnx", dynamo=dynamo)
    assert (tmp_path / "encoder.onnx").stat().st_size > 1000


def _fewer_layers(model: Any) -> None:
    model.encoder.layer = model.encoder.layer[:2]


def _scaling(model: Any) -> None:
    model.encoder.layer[1].attention.self.scaling *= 2


def _epsilon(model: Any) -> None:
    for norm in (model.encoder.layer[1].output.LayerNorm, model.encoder.layer[1].attention.output.LayerNorm):
        norm.eps = 0.5


def _reordered(model: Any) -> None:
    model.encoder.layer = nn.ModuleList([model.encoder.layer[index] for index in (2, 1, 0)])


def _another_linear(model: Any) -> None:
    torch.manual_seed(3)
    model.encoder.layer[1].output.dense = nn.Linear(96, 64)


@pytest.mark.parametrize(
    "change",
    [_fewer_layers, _scaling, _epsilon, _reordered, _another_linear],
    ids=lambda change: change.__name__,
)
def test_surgery_after_compiling_is_recorded_again(change: Callable[[Any], None]) -> None:
    model, reference = model_pair(tiny_config(num_hidden_layers=3))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        before = compiled(**random_batch()).last_hidden_state
        for each in (model, reference):
            change(each)
        found = compiled(**random_batch()).last_hidden_state
        expected = reference(**random_batch()).last_hidden_state
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert not torch.allclose(found, before, atol=1e-3)
    assert not bert_op.explain(model)["fallbacks"]


def test_moves_without_the_original_weights() -> None:
    model, reference = model_pair(tiny_config())
    bert_op.optimize(model, "fp32", skip_padding=False, free_original=True)
    with torch.no_grad():
        expected = reference(**random_batch()).last_hidden_state
        for move in (
            lambda: model.to("cpu"),
            model.float,
            lambda: model.to(torch.device("cpu"), torch.float32),
        ):
            move()
            output = model(**random_batch()).last_hidden_state
            torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert model.bfloat16()(**random_batch()).last_hidden_state.dtype == torch.bfloat16
    with pytest.raises(
        RuntimeError, match=r"freed by optimize.*cannot be moved to meta.*Load the model again"
    ):
        model.to("meta")


def test_a_move_that_changes_nothing_packs_nothing() -> None:
    model, _ = model_pair(tiny_config())
    packed = model.encoder.packed_weights
    assert model.to("cpu").float().encoder.packed_weights is packed
    assert model.bfloat16().encoder.packed_weights is not packed
