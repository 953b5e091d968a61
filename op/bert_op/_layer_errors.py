"""What a precision costs in each layer: its output against that of the same layer in fp32.

Layer by layer, so that the error of one does not hide in, or add to, that of the next: both get the same
input, which is what the layers before it give in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bert_op._calibrate import call_model
from bert_op._causes import cause_of, lone_weights
from bert_op._layer import Layer
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


class _Arguments(TorchDispatchMode):
    """Notes what the operator is called with, first call by packed weights."""

    bert_op_sees_operator = True

    def __init__(self) -> None:
        super().__init__()
        self.of_arena: dict[int, tuple[Tensor, Tensor | None]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.bert_op.encoder.default:
            hidden_states, attention_mask, packed = args
            self.of_arena.setdefault(packed[0].data_ptr(), (hidden_states, attention_mask))
        return function(*args, **(kwargs or {}))


def layer_errors(model: nn.Module, inputs: Any) -> dict[str, list[LayerError]]:
    """Run `model` on `inputs` and measure every layer of the encoders that ran by the operator.

    Returns:
        one value a layer, by the encoder's name.
    Raises:
        ValueError: no encoder ran by the operator.
        TypeError: the inputs are no batch.
    """
    with torch.no_grad(), _Arguments() as arguments:
        call_model(model, inputs)
    errors = {}
    for name, encoder in model.named_modules():
        if isinstance(encoder, PackedEncoder):
            for precision, arenas in encoder.packings().items():
                seen = arguments.of_arena.get(arenas[0].data_ptr())
                if seen is not None:
                    errors[name] = _errors_of(encoder, precision, *seen)
    if not errors:
        raise ValueError(
            "no encoder of the model ran by the operator on these inputs: bert_op.explain(model) says why."
        )
    return errors


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
