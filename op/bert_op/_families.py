"""The model families that the operators can run: where a family keeps the weights of one encoder layer.

One row of `FAMILIES` a family. A layer of every family is the same mathematics: self-attention, output
projection, residual and LayerNorm, feed-forward, residual and LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.models.bert import modeling_bert

HEAD_SIZES = (32, 64, 96, 128)

# Hugging Face's name of an activation -> the operator's. The tanh approximations differ in rounding only.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_new": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
}


@dataclass(frozen=True)
class Family:
    """Where an encoder of one family keeps what the operator needs.

    Attributes:
        name: the family's `model_type` in Hugging Face.
        encoder: the encoder's class.
        layers: path of the `nn.ModuleList` of layers in the encoder.
        weighted: paths, in a layer, of the 8 modules with a weight and a bias, in the order of `prepack`:
            query, key, value, attention output, its LayerNorm, intermediate, output, its LayerNorm.
        activation: path, in a layer, of the activation module.
        parts: the module types that such a layer consists of, beside the activation.
    """

    name: str
    encoder: type[nn.Module]
    layers: str
    weighted: tuple[str, ...]
    activation: str
    parts: frozenset[type[nn.Module]]


FAMILIES = (
    Family(
        name="bert",
        encoder=modeling_bert.BertEncoder,
        layers="layer",
        weighted=(
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ),
        activation="intermediate.intermediate_act_fn",
        parts=frozenset(
            {
                nn.Dropout,
                nn.LayerNorm,
                nn.Linear,
                modeling_bert.BertAttention,
                modeling_bert.BertIntermediate,
                modeling_bert.BertLayer,
                modeling_bert.BertOutput,
                modeling_bert.BertSelfAttention,
                modeling_bert.BertSelfOutput,
            }
        ),
    ),
)


def family_of(encoder: nn.Module) -> Family | None:
    """The family of `encoder`, which is of the family's own class or of the one that `bert_op` puts in its
    place.

    Any other subclass may compute something else, so it belongs to no family.
    """
    for family in FAMILIES:
        if type(encoder) is family.encoder or getattr(type(encoder), "family", None) is family:
            return family
    return None


def encoders_of(model: nn.Module) -> dict[str, nn.Module]:
    """The encoders in `model` that belong to a family, by their names in it (`""` is the model itself)."""
    return {name: module for name, module in model.named_modules() if family_of(module) is not None}


def unsupported_sizes(config: Any) -> str | None:
    """Why the operator cannot run an encoder of `config`'s sizes and kind, or None if it can."""
    if config.is_decoder or getattr(config, "add_cross_attention", False):
        return "the model is a decoder"
    if config.hidden_act not in ACTIVATIONS:
        return f"activation {config.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}"
    if config.hidden_size % 32 or config.intermediate_size % 32:
        return (
            f"hidden_size={config.hidden_size} and intermediate_size={config.intermediate_size} "
            "are not both multiples of 32"
        )
    head_size = config.hidden_size // config.num_attention_heads
    if head_size not in HEAD_SIZES or head_size * config.num_attention_heads != config.hidden_size:
        return f"head size {config.hidden_size / config.num_attention_heads:g} is not one of {HEAD_SIZES}"
    return None
