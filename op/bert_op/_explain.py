"""What runs, where, and why anything fell back: for people, bug reports and records."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from bert_op._families import encoders_of, layers_of
from bert_op._layer import Layer
from bert_op._layer_errors import layer_errors
from bert_op._library import build_info, loaded_from
from bert_op._observed import ObservedCall, observe
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import OriginalPath
from bert_op._policy import FOLLOWS, current_policy
from bert_op._seam import too_old

_NOT_CONVERTED = (
    "it is Hugging Face's own encoder: created before bert_op was imported, or restored (see optimize)"
)


def explain(model: nn.Module | None = None, inputs: Any = None) -> dict[str, Any]:
    """The state of the operator in this process and, if given, in `model`; plain values that JSON can hold.

    Args:
        inputs: a batch that the model is called with, to measure what its precision costs in each layer: a
            mapping (keywords), a tuple or list (positions), or a tensor.
    Returns:
        `version`, `commit`, `dirty`, `compiler`, `torch`: what the library was built from and for;
        `isa`, `isa_detected`, `isa_available`: the tier in use, the best one of this CPU, and all in the
            library;
        `library`: its path; `threads`: how many the operator uses, torch's or fewer, where affinity or the
            container's CPU quota allow fewer;
        `precision`, `skip_padding`: of the model, or of models created from here on if none is given. Where
            nobody chose the precision, it is the one in which a call at this place runs, so under
            `torch.autocast` that of autocast; "follows the model" where the operator runs nothing.
        With a model also `packed_bytes`, `encoders` (one entry each: name, class, precision, packed sizes),
        `layers` (one entry each: what runs it, in which precision) and `fallbacks` (encoder and reason).
        With inputs each layer that the operator runs also has `error`, see `LayerError`: its output,
        compared with that of the same layer in fp32 from the same input. And there is `plan`, how the
        batch is computed, one entry for each encoder and each run of layers that are packed together:
        `threads` that take part of `threads_allowed`; `teams` of so many `members`, with their `slices`
        (how many `sequences` and `rows`, into how many rows x panels a linear layer is cut,
        `query_rows` of a block of attention); what the cost model says of it: `microseconds`,
        `efficiency` (mean over largest of what the threads compute), `barriers` of a team; and
        `workspace_bytes`, the memory of the call beside weights and result.
    Raises:
        ValueError: inputs were given, but no model, or no encoder of it ran by the operator.
        TypeError: the inputs are no batch.
    """
    policy = current_policy()
    process = {
        **build_info(),
        "library": loaded_from(),
        "threads": torch.ops.bert_op.threads(),
        "precision": policy.precision or FOLLOWS,
        "skip_padding": policy.skip_padding,
    }
    if model is None:
        if inputs is not None:
            raise ValueError("explain got inputs, but no model to measure with them.")
        return process
    calls = {} if inputs is None else observe(model, inputs)
    errors = layer_errors(calls)
    encoders = [_explain_encoder(name, encoder) for name, encoder in encoders_of(model).items()]
    return {
        **process,
        "precision": _common([encoder["precision"] for encoder in encoders]),
        "skip_padding": _common([encoder["skip_padding"] for encoder in encoders]),
        "packed_bytes": sum(encoder["packed_bytes"] for encoder in encoders),
        **(
            {}
            if inputs is None
            else {"plan": [run for name, call in calls.items() for run in _plan(name, call)]}
        ),
        "encoders": encoders,
        "layers": [
            {**layer, **({"error": asdict(error)} if error else {})}
            for encoder in encoders
            for layer, error in zip(
                encoder.pop("layers"), errors.get(encoder["name"], itertools.repeat(None)), strict=False
            )
        ],
        "fallbacks": [
            {"encoder": encoder["name"], "reason": reason}
            for encoder in encoders
            for reason in encoder["fallbacks"]
        ],
    }


def _plan(name: str, call: ObservedCall) -> list[dict[str, Any]]:
    with torch.no_grad():
        text = torch.ops.bert_op.plan(
            call.hidden_states, call.attention_mask, list(call.packed), skip_padding=call.skip_padding
        )
    return [{"encoder": name, **run} for run in json.loads(text)]


def _explain_encoder(name: str, encoder: nn.Module) -> dict[str, Any]:
    num_layers = layers_of(encoder)
    entry = {"name": name, "class": type(encoder).__name__, "precision": None, "skip_padding": None}
    if not isinstance(encoder, PackedEncoder):
        return {
            **entry,
            "packed_bytes": 0,
            "packed": None,
            "guard": None,
            "fallbacks": [too_old() or _NOT_CONVERTED],
            "layers": [_layer(name, index, "original", None, None) for index in range(num_layers)],
        }
    encoder.renumber()
    policy = encoder.op_policy
    layers: tuple[Layer, ...] = ()
    now = None
    try:
        sources = encoder.check(gradients=False)
        layers = sources.layers
        policy = replace(policy, precision=encoder.precision_now(sources))
    except OriginalPath as reason:
        now = str(reason)
    packings = encoder.packings()
    packed = list(packings.get(policy.precision or "", ()))

    def layer(index: int) -> dict[str, Any]:
        if now is not None:
            return _layer(name, index, "original", None, None)
        assert policy.precision is not None
        precision = layers[index].precision(policy.precision)
        ranges = "static" if layers[index].factors else "per token"
        return _layer(name, index, "op", precision, ranges if precision.endswith("_qint8") else None)

    return {
        **entry,
        "precision": policy.precision or FOLLOWS,
        "skip_padding": policy.skip_padding,
        "packed_bytes": sum(arena.numel() for arenas in packings.values() for arena in arenas),
        "packed": json.loads(torch.ops.bert_op.describe(packed)) if packed else None,
        "guard": encoder.op_guard,
        "fallbacks": list(dict.fromkeys([*encoder.op_fallbacks, *([now] if now else [])])),
        "layers": [layer(index) for index in range(num_layers)],
    }


def _layer(
    encoder: str, index: int, path: str, precision: str | None, activations: str | None
) -> dict[str, Any]:
    return {
        "layer": index,
        "encoder": encoder,
        "path": path,
        "precision": precision,
        "quantized_activations": activations,
    }


def _common(values: list[Any]) -> Any:
    """The value if all agree; a list of the distinct ones if they differ; None if there is none."""
    distinct = list(dict.fromkeys(values))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)
