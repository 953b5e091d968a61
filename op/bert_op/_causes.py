"""Why int8 is coarse somewhere, in words: a weight, a channel or a token that sets the scale of others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bert_op._layer import Layer
from bert_op._policy import LINEARS

# A weight is lone where it is this many times as large as the others of its row and chunk are on average
# (root mean square). The rotation of inputs and weights spreads it over 64 columns, so an eighth of it sets
# the scale there, while without it the largest of some hundred weights, four times their average, would.
_LONE = 64.0
# A channel or token stands out where its values are this many times the usual size.
_LARGE = 8.0
# The positions, in the 16 tensors of a layer, of the matrices of each of LINEARS.
_MATRICES = {"qkv": (0, 2, 4), "attention_output": (6,), "intermediate": (10,), "output": (12,)}
_LONGEST_CHUNK = 768


@dataclass(frozen=True)
class LoneWeight:
    """A weight that sets the scale of its chunk.

    Attributes:
        linear: one of `LINEARS`.
        row, column: where it stands in its matrix; the rows of queries, keys and values follow each other.
        value: the weight.
        ratio: its magnitude over the root mean square of the rest of its row and chunk.
    """

    linear: str
    row: int
    column: int
    value: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"the weight {self.value:.3g} in row {self.row}, column {self.column} of {self.linear} is "
            f"{self.ratio:.0f} times as large as those beside it"
        )


def lone_weights(layer: Layer) -> list[LoneWeight]:
    """The largest one of each linear layer that has any."""
    found = []
    for linear, positions in _MATRICES.items():
        largest = None
        first_row = 0
        for position in positions:
            weight = layer.weights[position].detach()
            lone = _lone_in(weight, linear, first_row)
            first_row += len(weight)
            if lone is not None and (largest is None or lone.ratio > largest.ratio):
                largest = lone
        if largest is not None:
            found.append(largest)
    return found


def _lone_in(weight: Tensor, linear: str, first_row: int) -> LoneWeight | None:
    if weight.device.type != "cpu" or not weight.numel():
        return None
    # A look at the whole matrix first: nearly always it is enough. A lone weight is this many times the
    # average of all, unless its own row is much smaller than the others.
    size = math.sqrt(weight.numel())
    largest, average = (torch.linalg.vector_norm(weight, order).item() for order in (math.inf, 2))
    if not (largest > _LONE / 2 * average / size > 0):
        return None
    best = None
    columns = weight.shape[1]
    count = math.ceil(columns / _LONGEST_CHUNK)
    width = math.ceil(columns / count)
    for begin in range(0, columns, width):
        chunk = weight[:, begin : begin + width].float()
        magnitude, column = chunk.abs().max(1)
        rest = ((chunk.square().sum(1) - magnitude.square()).clamp_min(0) / max(1, chunk.shape[1] - 1)).sqrt()
        ratio, row = (magnitude / rest.clamp_min(1e-30)).max(0)
        if ratio > _LONE and (best is None or ratio > best.ratio):
            at = column[row].item()
            best = LoneWeight(
                linear,
                first_row + int(row.item()),
                begin + int(at),
                chunk[row, int(at)].item(),
                ratio.item(),
            )
    return best


def cause_of(linear: str, lone: Iterable[LoneWeight], inputs: Tensor | None, token_errors: Tensor) -> str:
    """A sentence, without a full stop, on what makes the error of `linear` what it is.

    Args:
        lone: the lone weights of its layer.
        inputs: (tokens, in_features), what it multiplies; None where that is not known.
        token_errors: (tokens,), squared errors of the layer's output.
    """
    for weight in lone:
        if weight.linear == linear:
            return str(weight)
    share = token_errors.max() / token_errors.sum().clamp_min(1e-300)
    if len(token_errors) > 4 and share > 0.5:
        number = int(token_errors.argmax())
        return f"one token of {len(token_errors)} has {share:.0%} of the error: number {number}"
    if inputs is not None:
        sizes = inputs.float().square().mean(0).sqrt()
        usual = sizes.median().clamp_min(1e-30)
        if sizes.max() > _LARGE * usual:
            return (
                f"channel {int(sizes.argmax())} of what {linear} multiplies is {(sizes.max() / usual):.0f} "
                "times as large as the median channel"
            )
    return "no single weight, channel or token: 8 bits are what they are here"


def warning_of(layers: Sequence[tuple[int, Sequence[LoneWeight]]]) -> str | None:
    """What to say of the lone weights of quantized layers, if there are any."""
    found = [(index, weight) for index, lone in layers for weight in lone]
    if not found:
        return None
    index, worst = max(found, key=lambda one: one[1].ratio)
    count = f"{len(found)} linear layers have" if len(found) > 1 else "a linear layer has"
    return (
        f"bert_op: {count} chunks of weights whose scale a single weight sets: of layer {index}, {worst}. If "
        f"bert_op.explain(model, inputs) shows that it matters, keep_layers=['{index}.{worst.linear}'] "
        "leaves it unquantized, or optimize(texts=..., target=...) finds what has to be."
    )


assert tuple(_MATRICES) == LINEARS
