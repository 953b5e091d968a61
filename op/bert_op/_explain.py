"""What runs, where, and why anything fell back: for people, bug reports and records."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from bert_op._families import encoders_of, layers_of
from bert_op._library import build_info, loaded_from
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import OriginalPath
from bert_op._policy import current_policy

_NOT_CONVERTED = (
    "it is Hugging Face's own encoder: created before bert_op was imported, or restored (see optimize)"
)


def explain(model: nn.Module | None = None) -> dict[str, Any]:
    """The state of the operator in this process and, if given, in `model`; plain values that JSON can hold.

    Returns:
        `version`, `commit`, `dirty`, `compiler`, `torch`: what the library was built from and for;
        `isa`, `isa_detected`, `isa_available`: the tier in use, the best one of this CPU, and all in the
            library;
        `library`: its path; `threads`: how many the operator uses;
        `precision`, `skip_padding`: of the model, or of models created from here on if none is given.
        With a model also `packed_bytes`, `encoders` (one entry each: name, class, precision, packed sizes),
        `layers` (one entry each: what runs it, in which precision) and `fallbacks` (encoder and reason).
    """
    policy = current_policy()
    process = {
        **build_info(),
        "library": loaded_from(),
        "threads": torch.get_num_threads(),
        "precision": policy.precision,
        "skip_padding": policy.skip_padding,
    }
    if model is None:
        return process
    encoders = [_explain_encoder(name, encoder) for name, encoder in encoders_of(model).items()]
    return {
        **process,
        "precision": _common([encoder["precision"] for encoder in encoders]),
        "skip_padding": _common([encoder["skip_padding"] for encoder in encoders]),
        "packed_bytes": sum(encoder["packed_bytes"] for encoder in encoders),
        "encoders": encoders,
        "layers": [layer for encoder in encoders for layer in encoder.pop("layers")],
        "fallbacks": [
            {"encoder": encoder["name"], "reason": reason}
            for encoder in encoders
            for reason in encoder["fallbacks"]
        ],
    }


def _explain_encoder(name: str, encoder: nn.Module) -> dict[str, Any]:
    num_layers = layers_of(encoder)
    entry = {"name": name, "class": type(encoder).__name__, "precision": None, "skip_padding": None}
    if not isinstance(encoder, PackedEncoder):
        return {
            **entry,
            "packed_bytes": 0,
            "packed": None,
            "fallbacks": [_NOT_CONVERTED],
            "layers": _layers(name, num_layers, "original", None, None),
        }
    policy = encoder.op_policy
    try:
        encoder.check(gradients=False)
        now = None
    except OriginalPath as reason:
        now = str(reason)
    arena = encoder.packed_weights
    ranges = "static" if policy.quantization_factors else "per token"
    activations = ranges if policy.quantized and now is None else None
    return {
        **entry,
        "precision": policy.precision,
        "skip_padding": policy.skip_padding,
        "packed_bytes": 0 if arena is None else arena.numel(),
        "packed": None if arena is None else json.loads(torch.ops.bert_op.describe([arena])),
        "fallbacks": list(dict.fromkeys([*encoder.op_fallbacks, *([now] if now else [])])),
        "layers": _layers(
            name,
            num_layers,
            "original" if now else "op",
            None if now else policy.precision,
            activations,
        ),
    }


def _layers(
    encoder: str, num_layers: int, path: str, precision: str | None, activations: str | None
) -> list[dict[str, Any]]:
    decision = {
        "encoder": encoder,
        "path": path,
        "precision": precision,
        "quantized_activations": activations,
    }
    return [{"layer": layer, **decision} for layer in range(num_layers)]


def _common(values: list[Any]) -> Any:
    """The value if all agree; a list of the distinct ones if they differ; None if there is none."""
    distinct = list(dict.fromkeys(values))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)
