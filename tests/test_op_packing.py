from __future__ import annotations

from typing import Any

import pytest
import torch
from bert_op._families import FAMILIES
from bert_op._layer import Kind, choose
from bert_op._packing import OriginalPath, Sources, join, pack, read_sources
from bert_op._policy import PRECISIONS, Policy
from op_models import hugging_face, random_model, tiny_config
from torch import nn

BERT = FAMILIES[0]


def encoder_and_sources(**changes: Any) -> tuple[Any, Sources]:
    with hugging_face():
        encoder = random_model(tiny_config(**changes)).encoder
    return encoder, read_sources(encoder, BERT)


def test_weights_are_in_the_order_of_prepack() -> None:
    encoder, sources = encoder_and_sources()
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    order = [names[id(weight)] for weight in sources.weights]
    modules = "attention.self.query attention.self.key attention.self.value attention.output.dense"
    modules += " attention.output.LayerNorm intermediate.dense output.dense output.LayerNorm"
    expected = [f"{module}.{kind}" for module in modules.split() for kind in ("weight", "bias")]
    assert order == [f"layer.{layer}.{name}" for layer in (0, 1) for name in expected]
    assert [layer.kind for layer in sources.layers] == 2 * [
        Kind(2, 64, 96, "gelu", encoder.config.layer_norm_eps)
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_packing_is_deterministic_and_reads_only(precision: str) -> None:
    _, sources = encoder_and_sources()
    (first,), (second,) = (pack(sources, Policy(precision)) for _ in range(2))
    assert first.dtype == torch.uint8
    assert first.dim() == 1
    assert torch.equal(first, second)
    assert sources.same_weights()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_writes_are_found_in_every_dtype(dtype: torch.dtype) -> None:
    encoder, _ = encoder_and_sources()
    encoder.to(dtype)
    sources = read_sources(encoder, BERT)
    assert sources.same_weights()
    encoder.layer[0].output.dense.weight.data.add_(1)
    assert not sources.same_weights()
    encoder.layer[0].output.dense.weight.data.sub_(1)
    with torch.no_grad():
        encoder.layer[1].output.dense.bias[7] += 1
    assert not sources.same_weights()


def test_weight_that_is_a_view_is_watched() -> None:
    encoder, _ = encoder_and_sources()
    dense = encoder.layer[0].intermediate.dense
    dense.weight = nn.Parameter(torch.randn(64, 192)[:, ::2].t())
    sources = read_sources(encoder, BERT)
    assert sources.same_weights()
    dense.weight.data.neg_()
    assert not sources.same_weights()


def test_watching_does_not_forbid_to_resize_the_storage() -> None:
    encoder, sources = encoder_and_sources()
    encoder.layer[0].output.dense.weight.untyped_storage().resize_(0)
    assert not sources.same_weights()


def _no_bias(encoder: Any) -> None:
    encoder.layer[0].output.dense = nn.Linear(96, 64, bias=False)


def _other_epsilon(encoder: Any) -> None:
    encoder.layer[1].output.LayerNorm.eps = 1e-3


def _other_activation(encoder: Any) -> None:
    encoder.layer[1].intermediate.intermediate_act_fn = nn.SiLU().eval()


def _no_layers(encoder: Any) -> None:
    encoder.layer = nn.ModuleList()


def _integers(encoder: Any) -> None:
    dense = encoder.layer[0].output.dense
    dense.weight = nn.Parameter(dense.weight.to(torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_no_bias, "no bias"),
        (_other_epsilon, "differ in epsilon"),
        (_other_activation, "in layer 1, it applies SiLU"),
        (_no_layers, "no layers"),
        (_integers, "dtype torch.int8"),
    ],
)
def test_layers_that_the_operator_does_not_cover(change: Any, reason: str) -> None:
    encoder, _ = encoder_and_sources()
    change(encoder)
    with pytest.raises(OriginalPath, match=reason):
        read_sources(encoder, BERT)


def test_joined_runs_give_the_same_bits_as_a_list_of_them() -> None:
    encoder, _ = encoder_and_sources()
    policy = Policy("bf16_qint8", keep_layers=(1,))
    choose(encoder.layer, policy)
    runs = pack(read_sources(encoder, BERT), policy)
    assert len(runs) == 2
    hidden_states = torch.randn(2, 5, 64)
    listed = torch.ops.bert_op.encoder(hidden_states, None, list(runs))
    joined = torch.ops.bert_op.encoder.joined(hidden_states, None, join(runs))
    assert torch.equal(listed, joined)
    assert join(runs[:1]) is runs[0]
    with pytest.raises(RuntimeError, match="bytes where its head asks for"):
        torch.ops.bert_op.encoder(hidden_states, None, [join(runs)])
    with pytest.raises(RuntimeError, match="too short"):
        torch.ops.bert_op.encoder.joined(hidden_states, None, join((*runs, runs[0][:100])))


@pytest.mark.parametrize("shape", [(2, 1, 5, 1), (1, 1, 1, 5), (2, 2, 1, 5), (2, 1, 1, 1), (1, 5)])
def test_masks_are_broadcast(shape: tuple[int, ...]) -> None:
    _, sources = encoder_and_sources()
    (arena,) = pack(sources, Policy("fp32"))
    hidden_states = torch.randn(2, 5, 64)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(shape, generator=generator) if len(shape) == 4 else torch.ones(shape)
    whole = mask.expand(2, 2, 5, 5).contiguous() if len(shape) == 4 else mask.expand(2, 5).contiguous()
    found, expected = (torch.ops.bert_op.encoder(hidden_states, each, [arena]) for each in (mask, whole))
    assert torch.equal(found, expected)
