"""Convert the encoders inside an existing model, in place, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from torch import nn

from bert_op._encoder import replacement
from bert_op._families import FAMILIES, config_of, encoders_of, family_of, layers_of, left_alone_in, refusal
from bert_op._guard import guard
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import OriginalPath
from bert_op._policy import (
    Policy,
    check_factors,
    check_kept_layers,
    check_precision,
    current_policy,
    factors_of_config,
    find_layers,
    layer_selectors,
    policy_of_config,
    save_to_config,
)
from bert_op._quality import Target, Text, parse_target
from bert_op._readers import reader_of
from bert_op._seam import too_old

_DEFAULT_PRECISION = "bf16_qint8"
_OPTIONS = (
    "skip_padding",
    "free_original",
    "quantization_factors",
    "keep_layers",
    "texts",
    "tokenizer",
    "target",
)


def optimize(
    model: nn.Module,
    precision: str | None = None,
    *,
    skip_padding: bool | Literal["auto"] = "auto",
    free_original: bool = False,
    quantization_factors: Sequence[float] | None = None,
    keep_layers: Iterable[int | str] | None = None,
    texts: Sequence[Text] | None = None,
    tokenizer: Any = None,
    target: float | Mapping[str, float] | None = None,
    **unknown: Any,
) -> nn.Module:
    """Run every supported encoder in `model` by the operator; heads and everything else stay as they are.

    Args:
        model: any `nn.Module` that contains encoders of a supported family; it is changed in place.
        precision: one of `fp32`, `fp32_qint8`, `bf16`, `bf16_qint8`; by default what the model's config says,
            else what `configure`, `using` or `BERT_OP_PRECISION` chose, else `bf16_qint8`.
        skip_padding: leave out positions that no query attends; their rows are zero in the encoder's result.
            `auto`: only where nothing in `model` reads them: poolings of sentence-transformers, and heads of
            transformers that read the first token; its encoders are then not to be called by themselves.
        free_original: give up the data of the original encoder weights once they are packed. The model can
            then neither be trained, saved nor restored.
        quantization_factors: static activation ranges for the int8 precisions, as `calibrate` returns them;
            by default those of the model's config if it has any; an empty list forces ranges per token at run
            time.
        keep_layers: layers that the int8 precisions leave unquantized (in bf16 or fp32): indices (-1 is the
            last) or names such as `encoder.layer.11`; also single linear layers of one (`3.output`,
            `layer.3.qkv`) or of all (`output`): qkv, attention_output, intermediate, output.
            `explain(model, inputs)` shows which would gain. By
            default those of the model's config or the current policy; an empty list quantizes all. The other
            precisions remember them for a later change of precision.
        target: what the int8 precision has to come to on the `texts` against fp32, by keeping as few linear
            layers as that takes unquantized, instead of `keep_layers`: a number is the mean cosine of the
            embeddings; a mapping names figures: `cosine_mean`, `cosine_min`, `flips` (the share of decisions
            that differ), `top1`, `top10` (the share of nearest neighbours that stay). `explain(model)` has
            what was kept and what it costs in its encoders' `guard`.
        texts: a few hundred texts, or pairs of texts, of the kind that the model is used on.
        tokenizer: that of the model; sentence-transformers have their own.
    Returns:
        `model` itself. Its config keeps the options, so that `save_pretrained` saves them and
        `from_pretrained` restores them where `bert_op` is imported.
    Raises:
        TypeError: an option is unknown or of the wrong type, or `model` is no `nn.Module`.
        ValueError: the precision is unknown, the factors do not fit, there is no such layer to keep, the
            model has no supported encoder, the target is out of reach (the message says how far it came) or
            asks for what the model does not have, or transformers is older than 4.56.
        RuntimeError: a weight is not finite; the model is then as it was.
    """
    if unknown:
        raise TypeError(
            f"optimize has no option {', '.join(map(repr, unknown))}: it has {', '.join(_OPTIONS)}."
        )
    encoders = _supported_encoders(model)
    wanted = _wanted(model, encoders, keep_layers, texts, target)
    for encoder in encoders.values():
        if isinstance(encoder, PackedEncoder):
            encoder.renumber()
    policies = {
        name: _choose_policy(encoder, precision, skip_padding, quantization_factors)
        for name, encoder in encoders.items()
    }
    if keep_layers is not None:
        kept = _kept_layers(encoders, layer_selectors(keep_layers))
        policies = {name: replace(policy, keep_layers=kept[name]) for name, policy in policies.items()}
    if wanted is not None and not all(policy.quantized for policy in policies.values()):
        (unquantized,) = policies.values()
        raise ValueError(f"target is for the int8 precisions, but precision={unquantized.precision!r}.")
    undo: list[tuple[nn.Module, Policy | None]] = []
    try:
        for name, encoder in encoders.items():
            undo.append((encoder, encoder.op_policy if isinstance(encoder, PackedEncoder) else None))
            _convert(encoder, policies[name], free_original)
            if wanted is not None:
                assert isinstance(encoder, PackedEncoder) and texts is not None
                encoder.op_guard = asdict(guard(model, encoder, wanted, list(texts), tokenizer))
        if free_original:  # only when all of them are packed: until here everything can be undone
            for encoder in encoders.values():
                assert isinstance(encoder, PackedEncoder)
                if not encoder.op_freed:
                    encoder.free_original()
    except Exception:
        for encoder, policy in undo:
            if policy is not None:
                encoder.set_policy(policy)
            elif isinstance(encoder, PackedEncoder):
                encoder.detach_op()
        raise
    for name, encoder in encoders.items():
        assert isinstance(encoder, PackedEncoder)
        encoder.op_rows, encoder.op_reader = reader_of(model, name)
    _save_options(encoders)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Put Hugging Face's own encoders back into `model`, in place; a model without any of ours stays as it
    is, and so does an encoder of a class that was derived from one of ours.

    Raises:
        RuntimeError: an encoder gave up its original weights; nothing is restored then.
    """
    encoders = [encoder for encoder in encoders_of(model).values() if isinstance(encoder, PackedEncoder)]
    for encoder in sorted(encoders, key=lambda encoder: not encoder.op_freed):
        encoder.detach_op()
    return model


def _wanted(
    model: nn.Module,
    encoders: dict[str, nn.Module],
    keep_layers: Iterable[int | str] | None,
    texts: Sequence[Text] | None,
    target: object,
) -> Target | None:
    """The target, checked together with what it needs."""
    if (texts is None) != (target is None):
        missing, given = ("texts", "target") if texts is None else ("target", "texts")
        raise TypeError(f"optimize got {given}, but no {missing}: a target is met on texts.")
    if texts is None:
        return None
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence) or not texts:
        raise TypeError("texts is not a list of strings, or of pairs of strings.")
    if keep_layers is not None:
        raise ValueError("keep_layers and target exclude each other: a target chooses what is kept.")
    if len(encoders) != 1:
        raise ValueError(f"target needs a model with one supported encoder; this one has {len(encoders)}.")
    if model.training:
        raise ValueError("target needs a model in evaluation mode: call model.eval() first.")
    return parse_target(target)


def _supported_encoders(model: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"optimize takes an nn.Module, not {type(model).__name__}: for a pipeline, give its .model."
        )
    if reason := too_old():
        raise ValueError(reason)
    encoders = encoders_of(model)
    if not encoders:
        if reason := left_alone_in(model):
            raise ValueError(reason)
        families = ", ".join(family.name for family in FAMILIES)
        reason = refusal(model)
        raise ValueError(
            f"{type(model).__name__} contains no encoder that bert_op can run: it knows {families}."
            + (f" The model stays as it is, for {reason}." if reason else "")
        )
    return encoders


def _kept_layers(
    encoders: dict[str, nn.Module], selectors: tuple[int | str, ...]
) -> dict[str, tuple[int | str, ...]]:
    """The layers to keep of each encoder: indices are those of every one, names may be of one of several."""
    kept = {}
    known: set[int | str] = set()
    for name, encoder in encoders.items():
        family = family_of(encoder)
        assert family is not None
        prefix = f"{name}.{family.layers}" if name else family.layers
        layers = [f"{prefix}.{index}" for index in range(layers_of(encoder))]
        own = [s for s in selectors if isinstance(s, int) or find_layers(s, layers)]
        known.update(own)
        kept[name] = check_kept_layers(own, layers)
    if unknown := [selector for selector in selectors if selector not in known]:
        check_kept_layers(unknown, layers)
    return kept


def _save_options(encoders: dict[str, nn.Module]) -> None:
    """Write each encoder's policy into its config, once where encoders share one."""
    written: list[Any] = []
    for encoder in encoders.values():
        config = config_of(encoder)
        if config is None or any(config is other for other in written):
            continue
        assert isinstance(encoder, PackedEncoder)
        written.append(config)
        before = save_to_config(config, encoder.op_policy, layers_of(encoder))
        encoder.op_config = {**before, **encoder.op_config}


def _choose_policy(
    encoder: nn.Module,
    precision: str | None,
    skip_padding: bool | Literal["auto"],
    factors: Sequence[float] | None,
) -> Policy:
    config, num_layers = config_of(encoder), layers_of(encoder)
    if precision is not None:
        check_precision(precision)
    policy = policy_of_config(config, current_policy(), num_layers)
    precision = precision or policy.precision or _DEFAULT_PRECISION
    policy = replace(policy, precision=precision, skip_padding=skip_padding)
    if factors is None:
        factors = factors_of_config(config, num_layers) if policy.quantized else ()
    elif len(factors) and not policy.quantized:
        raise ValueError(
            f"quantization_factors are for the int8 precisions, but precision={policy.precision!r}."
        )
    checked = check_factors(factors, num_layers) if len(factors) else ()  # an array has no truth value
    return replace(policy, quantization_factors=checked)


def _convert(encoder: nn.Module, policy: Policy, free_original: bool) -> None:
    if isinstance(encoder, PackedEncoder):
        encoder.set_policy(policy, anew=True)
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
