"""Static activation ranges for the int8 precisions, measured on the original path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bert_op._families import Family, config_of, encoders_of, family_of
from bert_op._packed_encoder import PackedEncoder
from bert_op._policy import FACTORS_PER_LAYER

FLAG = "calibrate_quant_factors"

# Positions in `Family.weighted` of the linear layers whose inputs are quantized: query (its input is that of
# key and value too), attention output, intermediate, output.
_QUANTIZED_INPUTS = (0, 3, 5, 6)


def calibrate(model: nn.Module, batches: Iterable[Any]) -> list[float]:
    """Ranges of the inputs of the linear layers over `batches`, for `optimize(quantization_factors=...)`.

    Args:
        model: a Hugging Face model with one encoder of a supported family; it is evaluated without gradients.
        batches: what the model is called with, one by one: a mapping (keywords), a tuple or list (positions),
            or a tensor. A few hundred real examples are enough.
    Returns:
        8 floats a layer: min and max of the inputs of QKV, attention output, intermediate and output; zeros
        for a layer of another kind, which the operator does not run.
    Raises:
        ValueError: the model has no or several supported encoders, there is no batch, or a range is not
            finite.
        TypeError: `batches` is a single batch.
    """
    if isinstance(batches, (Mapping, Tensor)):
        raise TypeError("batches is a single batch: give an iterable of them, for example [batch].")
    encoders = list(encoders_of(model).values())
    if len(encoders) != 1:
        raise ValueError(f"calibrate needs a model with one supported encoder; this one has {len(encoders)}.")
    (encoder,) = encoders
    family = family_of(encoder)
    assert family is not None
    if getattr(encoder, "op_freed", False):
        raise ValueError("calibrate needs the original weights, which optimize(free_original=True) freed.")
    own_class, was_training = type(encoder), model.training
    encoder.__class__ = family.encoder  # the original path, and none of the packing that eval() would start
    try:
        model.eval()
        with torch.no_grad(), recorded_ranges(encoder, family) as ranges:
            for batch in batches:
                call_model(model, batch)
    finally:
        encoder.__class__ = own_class
        if was_training:
            model.train()
    if not all(map(math.isfinite, ranges)):
        raise ValueError("calibrate saw no batch: no range can be given.")
    return ranges


@contextmanager
def recorded_into_config(encoder: PackedEncoder) -> Iterator[None]:
    """Widen `config.quantization_factors` by the inputs seen inside the `with` block, beginning with the
    first one.

    Factors that the config had before the encoder was first calibrated do not count.
    """
    with recorded_ranges(encoder, encoder.family) as ranges:
        yield
    widened, recorded = [], []
    for index, layer in enumerate(encoder.op_layers):
        new = ranges[FACTORS_PER_LAYER * index : FACTORS_PER_LAYER * (index + 1)]
        old = next((values for known, values in encoder.op_ranges if known is layer), new)
        own = [pick(pair) for pick, pair in zip((min, max) * 4, zip(old, new, strict=True), strict=True)]
        recorded.append((layer, own))
        widened += own
    encoder.op_ranges = recorded
    config_of(encoder).quantization_factors = widened
    encoder.set_policy(replace(encoder.op_policy, quantization_factors=tuple(widened)))


@contextmanager
def recorded_ranges(encoder: nn.Module, family: Family) -> Iterator[list[float]]:
    """A list of 8 floats a layer that follows the inputs seen inside the `with` block, from (inf, -inf);
    zeros for a layer that has not the family's linear layers."""
    layers = list(encoder.get_submodule(family.layers)._modules.values())
    ranges = [math.inf, -math.inf] * (len(_QUANTIZED_INPUTS) * len(layers))
    handles = []

    def widen(index: int, value: Tensor) -> None:
        low, high = (bound.item() for bound in torch.aminmax(value.detach().float()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"calibration met activations that are not finite: they span {low} to {high}.")
        ranges[index] = min(ranges[index], low)
        ranges[index + 1] = max(ranges[index + 1], high)

    for number, layer in enumerate(layers):
        for position, part in enumerate(_QUANTIZED_INPUTS):
            index = 2 * (number * len(_QUANTIZED_INPUTS) + position)
            try:
                module = layer.get_submodule(family.weighted[part])
            except AttributeError:
                ranges[index : index + 2] = 0.0, 0.0
                continue
            handles.append(
                module.register_forward_pre_hook(lambda _, inputs, index=index: widen(index, inputs[0]))
            )
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


def call_model(model: nn.Module, batch: Any) -> None:
    """Call `model` with a mapping of keywords, a tuple or list of positions, or a tensor."""
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    elif isinstance(batch, Tensor):
        model(batch)
    else:
        raise TypeError(f"a batch is a mapping, a tuple, a list or a tensor, not {type(batch).__name__}.")
