"""Convert the encoders inside an existing model, in place, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from bert_op._encoder import replacement
from bert_op._families import FAMILIES, config_of, encoders_of, family_of, refusal
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import OriginalPath
from bert_op._policy import Policy, check_factors, check_precision, current_policy, policy_of_config

_OPTIONS = ("skip_padding", "free_original", "quantization_factors")


def optimize(
    model: nn.Module,
    precision: str | None = None,
    *,
    skip_padding: bool = True,
    free_original: bool = False,
    quantization_factors: Sequence[float] | None = None,
    **unknown: Any,
) -> nn.Module:
    """Run every supported encoder in `model` by the operator; heads and everything else stay as they are.

    Args:
        model: any `nn.Module` that contains encoders of a supported family; it is changed in place.
        precision: one of `fp32`, `fp32_qint8`, `bf16`, `bf16_qint8`; by default what the model's config or
            the current policy says.
        skip_padding: leave out positions that no query attends; their rows are zero in the encoder's result.
        free_original: give up the data of the original encoder weights once they are packed. The model can
            then neither be trained, saved nor restored.
        quantization_factors: static activation ranges for the int8 precisions, as `calibrate` returns them;
            by default those of the model's config if it has any; an empty list forces ranges per token at run
            time.
    Returns:
        `model` itself.
    Raises:
        TypeError: an option is unknown, or `model` is no `nn.Module`.
        ValueError: the precision is unknown, the factors do not fit, or the model has no supported encoder.
        RuntimeError: a weight is not finite; the model is then as it was.
    """
    if unknown:
        raise TypeError(
            f"optimize has no option {', '.join(map(repr, unknown))}: it has {', '.join(_OPTIONS)}."
        )
    encoders = _supported_encoders(model)
    policies = {
        name: _choose_policy(config_of(encoder), precision, skip_padding, quantization_factors)
        for name, encoder in encoders.items()
    }
    undo: list[tuple[nn.Module, Policy | None]] = []
    try:
        for name, encoder in encoders.items():
            undo.append((encoder, encoder.op_policy if isinstance(encoder, PackedEncoder) else None))
            _convert(encoder, policies[name], free_original)
    except Exception:
        for encoder, policy in undo:
            if policy is not None:
                encoder.set_policy(policy)
            elif isinstance(encoder, PackedEncoder):
                encoder.detach_op()
        raise
    return model


def restore(model: nn.Module) -> nn.Module:
    """Put Hugging Face's own encoders back into `model`, in place; a model without any of ours stays as it
    is.

    Raises:
        RuntimeError: an encoder gave up its original weights; nothing is restored then.
    """
    encoders = [encoder for encoder in model.modules() if isinstance(encoder, PackedEncoder)]
    for encoder in sorted(encoders, key=lambda encoder: not encoder.op_freed):
        encoder.detach_op()
    return model


def _supported_encoders(model: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"optimize takes an nn.Module, not {type(model).__name__}: for a pipeline, give its .model."
        )
    encoders = encoders_of(model)
    if not encoders:
        families = ", ".join(family.name for family in FAMILIES)
        reason = refusal(model)
        raise ValueError(
            f"{type(model).__name__} contains no encoder that bert_op can run: it knows {families}."
            + (f" The model stays as it is, for {reason}." if reason else "")
        )
    return encoders


def _choose_policy(
    config: Any, precision: str | None, skip_padding: bool, factors: Sequence[float] | None
) -> Policy:
    policy = replace(policy_of_config(config, current_policy()), skip_padding=skip_padding)
    if precision is not None:
        check_precision(precision)
        policy = replace(policy, precision=precision)
    if factors is None:
        factors = getattr(config, "quantization_factors", None) if policy.quantized else None
    elif len(factors) and not policy.quantized:
        raise ValueError(
            f"quantization_factors are for the int8 precisions, but precision={policy.precision!r}."
        )
    return replace(
        policy, quantization_factors=check_factors(factors, config.num_hidden_layers) if factors else ()
    )


def _convert(encoder: nn.Module, policy: Policy, free_original: bool) -> None:
    if isinstance(encoder, PackedEncoder):
        encoder.set_policy(policy)
    else:
        family = family_of(encoder)
        assert family is not None
        encoder.__class__ = replacement(family)
        assert isinstance(encoder, PackedEncoder)
        encoder.attach(policy)
    if free_original and encoder.training:
        raise ValueError("free_original=True needs a model in evaluation mode: call model.eval() first.")
    if not encoder.training:
        try:
            encoder.ready(gradients=False)
        except OriginalPath as reason:
            if free_original:
                raise ValueError(
                    f"free_original=True is impossible: the original path has to run, because {reason}."
                ) from None
            encoder.note(str(reason))
    if free_original and not encoder.op_freed:
        encoder.free_original()
