from __future__ import annotations

from typing import Any

import bert_op
import pytest
import torch
from bert_op import BertEncoderOp
from bert_op._families import ACTIVATIONS, FAMILIES, encoders_of, family_of, unsupported_sizes
from op_models import hugging_face, random_batch, random_model, tiny_config
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.bert import modeling_bert


def test_every_family_finds_its_modules() -> None:
    with hugging_face():
        encoder = random_model(tiny_config()).encoder
    family = FAMILIES[0]
    (layer, _) = encoder.get_submodule(family.layers)
    kinds = [type(layer.get_submodule(path)) for path in family.weighted]
    linear, norm = nn.Linear, nn.LayerNorm
    assert kinds == [linear, linear, linear, linear, norm, linear, linear, norm]
    assert type(layer.get_submodule(family.activation)) is type(ACT2FN["gelu"])


def test_a_class_derived_from_ours_is_left_alone() -> None:
    class Negated(BertEncoderOp):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.last_hidden_state.neg_()
            return output

    model = random_model(tiny_config())
    with torch.no_grad():
        expected = -model(**random_batch()).last_hidden_state
        model.encoder.__class__ = Negated
        assert family_of(model.encoder) is None and encoders_of(model) == {}
        with pytest.raises(ValueError, match="contains no encoder"):
            bert_op.optimize(model, "fp32")
        bert_op.restore(model)
        assert torch.equal(model(**random_batch()).last_hidden_state, expected)


def test_activations_are_known_to_hugging_face() -> None:
    assert set(ACTIVATIONS) <= set(ACT2FN)


def test_only_the_family_s_own_class_and_ours_belong_to_it() -> None:
    class Changed(BertEncoderOp.family.encoder):  # type: ignore[misc, name-defined]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    config = tiny_config()
    assert family_of(BertEncoderOp(config)) is FAMILIES[0]
    assert family_of(FAMILIES[0].encoder(config)) is FAMILIES[0]
    assert family_of(Changed(config)) is None
    assert family_of(modeling_bert.BertLayer(config)) is None


def test_encoders_are_found_by_name() -> None:
    model = nn.ModuleDict({"a": random_model(tiny_config()), "b": nn.Linear(1, 1)})
    assert list(encoders_of(model)) == ["a.encoder"]
    assert list(encoders_of(model["a"].encoder)) == [""]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"hidden_size": 96, "num_attention_heads": 1}, None),
        ({"hidden_size": 128, "num_attention_heads": 1}, None),
        ({"intermediate_size": 32}, None),
        ({"hidden_size": 80, "num_attention_heads": 1}, "multiples of 32"),
        ({"intermediate_size": 48}, "multiples of 32"),
        ({"hidden_size": 160, "num_attention_heads": 1}, "head size 160"),
        ({"hidden_act": "gelu_10"}, "activation 'gelu_10'"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_supported_sizes(changes: dict[str, Any], reason: str | None) -> None:
    found = unsupported_sizes(tiny_config(**changes))
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert reason in found
