"""What a precision costs in each layer: its output against that of the same layer in fp32.

Layer by layer, so that the error of one does not hide in, or add to, that of the next: both get the same
input, which is what the layers before it give in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bert_op._causes import cause_of, lone_weights
from bert_op._layer import Layer
from bert_op._observed import ObservedCall
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import OriginalPath, pack_layers
from bert_op._policy import LINEARS


@dataclass(frozen=True)
class LayerError:
    """The error of one layer's output over the tokens that are attended.

    Attributes:
        cosine: mean over the tokens of the cosine between the two outputs; 1 is none.
        cosine_min: that of the worst token.
        relative_error: Euclidean norm of the difference, divided by that of the fp32 output.
        linears: `relative_error` with one linear layer quantized alone, by its name; empty where nothing is.
        worst: the linear layer with the largest of these, or None.
        cause: what makes it coarse, in words, or None.
    """

    cosine: float
    cosine_min: float
    relative_error: float
    linears: dict[str, float]
    worst: str | None
    cause: str | None


def layer_errors(calls: Mapping[str, ObservedCall]) -> dict[str, list[LayerError]]:
    """What each layer of the encoders is off by, on the inputs of their calls.

    Returns:
        one value a layer, by the encoder's name.
    Raises:
        ValueError: the original weights were freed or cannot be packed.
    """
    return {
        name: _errors_of(call.encoder, call.precision, call.hidden_states, call.attention_mask)
        for name, call in calls.items()
    }


def _errors_of(
    encoder: PackedEncoder, precision: str, hidden_states: Tensor, attention_mask: Tensor | None
) -> list[LayerError]:
    if encoder.op_freed:
        raise ValueError(
            "the error of a layer cannot be measured: the original weights were freed by "
            "optimize(free_original=True). Load the model again."
        )
    try:
        sources = encoder.check(gradients=False)
    except OriginalPath as reason:
        raise ValueError(f"the error of a layer cannot be measured, because {reason}.") from None

    def run(state: Tensor, index: int, in_precision: str, kept: tuple[str, ...] | None = None) -> Tensor:
        arena = pack_layers(sources, [index], in_precision, kept)
        output: Tensor = torch.ops.bert_op.encoder(state, attention_mask, [arena], skip_padding=True)
        return output

    state = hidden_states.detach().float()
    errors = []
    with torch.no_grad():
        for index, layer in enumerate(sources.layers):
            own = layer.precision(precision)
            exact = run(state, index, "fp32")
            alone = {}
            if own.endswith("_qint8"):
                unquantized = run(state, index, own.removesuffix("_qint8"))
                for name in LINEARS:
                    if name not in layer.kept:
                        others = tuple(other for other in LINEARS if other != name)
                        alone[name] = _relative(run(state, index, own, others), unquantized)
            errors.append(_compare(run(state, index, own), exact, state, layer, alone))
            state = exact
    return errors


def _tokens(exact: Tensor) -> Tensor:
    """Rows that were left out as padding are zero, and no token."""
    tokens = exact.abs().sum(-1) > 0
    if not tokens.any():
        raise ValueError("the error of a layer cannot be measured: the inputs attend to no token.")
    return tokens


def _relative(output: Tensor, exact: Tensor) -> float:
    return ((output - exact).double().norm() / exact.double().norm()).item()


def _compare(
    output: Tensor, exact: Tensor, inputs: Tensor, layer: Layer, alone: dict[str, float]
) -> LayerError:
    tokens = _tokens(exact)
    output, exact = output[tokens].double(), exact[tokens].double()
    cosine = nn.functional.cosine_similarity(output, exact, dim=-1)
    worst = max(alone, key=lambda name: alone[name], default=None)
    cause = None
    if worst is not None:
        token_errors = (output - exact).square().sum(-1)
        cause = cause_of(worst, lone_weights(layer), inputs[tokens] if worst == "qkv" else None, token_errors)
    return LayerError(
        cosine.mean().item(), cosine.min().item(), _relative(output, exact), alone, worst, cause
    )
