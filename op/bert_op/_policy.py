"""How models run: the options that models created from here on take, and those that a config keeps."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from bert_op._seam import BertOpWarning, said

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
FACTORS_PER_LAYER = 8
# What is quantized of a layer, in the order of `prepack`: queries, keys and values are one linear layer.
LINEARS = ("qkv", "attention_output", "intermediate", "output")

# What is said of the precision where it is nobody's choice and there is no call yet to follow.
FOLLOWS = "follows the model"

# The attribute of a model's config that keeps its options, and their names in it.
SAVED = "bert_op"
# Those that choose one half of the precision each.
_HALVES = ("use_bfloat16", "use_quantization")
_SAVED_OPTIONS = ("precision", "skip_padding", "keep_layers")
# Saved beside them: of how many layers keep_layers and quantization_factors speak.
_NUM_LAYERS = "num_layers"
_FACTORS = "quantization_factors"

_FLAGS: dict[str, bool | Literal["auto"]] = {
    "1": True,
    "true": True,
    "on": True,
    "yes": True,
    "0": False,
    "false": False,
    "off": False,
    "no": False,
    "auto": "auto",
}


@dataclass(frozen=True)
class Policy:
    """How one encoder runs.

    Attributes:
        precision: one of `PRECISIONS`; None where nobody chose one: then each call follows the model, see
            `followed_precision`.
        skip_padding: leave out positions that no query attends; their rows are zero in the result. `auto`:
            only where nothing that comes after reads them.
        quantization_factors: empty, or 8 floats a layer for the int8 precisions: min and max of the inputs of
            QKV, attention output, intermediate and output.
        keep_layers: what the int8 precisions leave unquantized. In a model's own policy these are, in order,
            indices of whole layers and single linear layers such as "3.output"; in that of models to come
            also other names and indices from the end.
    """

    precision: str | None = None
    skip_padding: bool | Literal["auto"] = False
    quantization_factors: tuple[float, ...] = ()
    keep_layers: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_precision(self.precision)
        if not isinstance(self.skip_padding, bool) and self.skip_padding != "auto":
            raise TypeError(f"skip_padding={self.skip_padding!r} is not known: give True, False or 'auto'.")

    @property
    def quantized(self) -> bool:
        return self.precision is not None and self.precision.endswith("_qint8")

    @property
    def packing(self) -> tuple[object, ...]:
        """What the packed weights depend on."""
        return (self.precision, *((self.quantization_factors, self.keep_layers) if self.quantized else ()))


def followed_precision(weights: Collection[torch.dtype], autocast: torch.dtype | None) -> str:
    """The precision of a call for which nobody chose one: `bf16` where Hugging Face would multiply nothing
    but bf16, else `fp32`. So it is never less precise than what the model is in.

    Args:
        weights: the dtypes of the matrices of all layers. Biases and LayerNorms do not count: every precision
            has them in fp32.
        autocast: the dtype that autocast has the products of the CPU in; None where it is off.
    """
    multiplied = set(weights) if autocast is None else {autocast}
    return "bf16" if multiplied == {torch.bfloat16} else "fp32"


def check_precision(precision: object, setting: str = "precision") -> None:
    """Raises ValueError, naming `setting` and the choices, unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"{setting}={precision!r} is unknown: choose one of {', '.join(PRECISIONS)}.")


def check_factors(factors: Sequence[float], num_layers: int) -> tuple[float, ...]:
    """`factors` as a tuple. Raises ValueError unless there are 8 a layer, in finite pairs min <= max."""
    values = tuple(float(factor) for factor in factors)
    if len(values) != FACTORS_PER_LAYER * num_layers:
        raise ValueError(
            f"quantization_factors has {len(values)} values, but {num_layers} layers need "
            f"{FACTORS_PER_LAYER * num_layers}: {FACTORS_PER_LAYER} a layer, as bert_op.calibrate returns."
        )
    for index in range(0, len(values), 2):
        low, high = values[index : index + 2]
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"quantization_factors[{index}:{index + 2}] = ({low}, {high}) is no range: "
                "give a finite minimum and a maximum not below it, as bert_op.calibrate returns them."
            )
    return values


def layer_selectors(keep_layers: Iterable[int | str]) -> tuple[int | str, ...]:
    """`keep_layers` as a tuple. Raises TypeError unless it is a list of indices and names."""
    listed = not isinstance(keep_layers, str) and isinstance(keep_layers, Iterable)
    selectors = tuple(keep_layers) if listed else ()
    if not listed or any(isinstance(s, bool) or not isinstance(s, (int, str)) for s in selectors):
        raise TypeError(
            f"keep_layers={keep_layers!r} is not a list of layers: give indices or names, for example "
            "[0, 'layer.11', '3.output']."
        )
    return selectors


# A layer, and which of `LINEARS` of it.
Found = tuple[int, tuple[str, ...]]


def find_layers(selector: int | str, names: Sequence[str]) -> tuple[Found, ...]:
    """What `selector` means: an index, also from the end; a name that is the end of one of `names`, or the
    other way round; one of `LINEARS` behind such a name or index, or alone for that of every layer. Nothing
    if there is no such layer."""
    if isinstance(selector, int):
        inside = -len(names) <= selector < len(names)
        return ((selector % len(names), LINEARS),) if inside else ()
    if selector in LINEARS:
        return tuple((index, (selector,)) for index in range(len(names)))
    layer, _, last = selector.rpartition(".")
    linears = (last,) if last in LINEARS else LINEARS
    wanted = f".{layer if last in LINEARS else selector}"
    for index, name in enumerate(names):
        if f".{name}".endswith(wanted) or wanted.endswith(f".{name}"):
            return ((index, linears),)
    return ()


def check_kept_layers(
    keep_layers: Iterable[int | str], names: Sequence[str], setting: str = "keep_layers"
) -> tuple[int | str, ...]:
    """What to keep unquantized, as a policy has it: in order, indices of layers and names of linear layers.

    Args:
        names: of the layers there are.
    Raises:
        TypeError: `keep_layers` is not a list of indices and names.
        ValueError: there is no such layer.
    """
    found = {selector: find_layers(selector, names) for selector in layer_selectors(keep_layers)}
    if unknown := [selector for selector, layers in found.items() if not layers]:
        raise ValueError(
            f"{setting} has {', '.join(map(repr, unknown))}, but the layers are "
            f"{names[0]} to {names[-1]}: give their names or the indices 0 to {len(names) - 1}, or single "
            f"linear layers such as '0.{LINEARS[-1]}' ({', '.join(LINEARS)})."
        )
    kept: list[set[str]] = [set() for _ in names]
    for index, linears in (one for layers in found.values() for one in layers):
        kept[index].update(linears)
    return kept_as_selectors([tuple(name for name in LINEARS if name in of_layer) for of_layer in kept])


def kept_as_selectors(kept: Sequence[tuple[str, ...]]) -> tuple[int | str, ...]:
    """What is kept of each layer, as a policy has it."""
    selectors: list[int | str] = []
    for index, linears in enumerate(kept):
        whole = len(linears) == len(LINEARS)
        selectors += [index] if whole else [f"{index}.{name}" for name in linears]
    return tuple(selectors)


def kept_of(keep_layers: Collection[int | str], index: int) -> tuple[str, ...]:
    """The linear layers of layer `index` that are kept, by a policy's own `keep_layers`."""
    return tuple(name for name in LINEARS if index in keep_layers or f"{index}.{name}" in keep_layers)


def _from_environment(environ: Mapping[str, str]) -> Policy:
    precision = environ.get("BERT_OP_PRECISION") or None
    if precision is not None:
        check_precision(precision, "BERT_OP_PRECISION")
    flag = environ.get("BERT_OP_SKIP_PADDING") or "0"
    if flag.lower() not in _FLAGS:
        raise ValueError(f"BERT_OP_SKIP_PADDING={flag!r} is neither on nor off: set it to 1, 0 or auto.")
    return Policy(precision=precision, skip_padding=_FLAGS[flag.lower()])


_default = _from_environment(os.environ)
_overrides: ContextVar[dict[str, Any]] = ContextVar("bert_op_overrides")


def current_policy() -> Policy:
    """The policy that a model created now takes."""
    return replace(_default, **_overrides.get({}))


def configure(
    *,
    precision: str | None = None,
    skip_padding: bool | Literal["auto"] | None = None,
    keep_layers: Iterable[int | str] | None = None,
) -> None:
    """Set what models created from here on use; what is not given stays as it is.

    Args:
        keep_layers: layers that the int8 precisions leave unquantized: indices (-1 is the last) or names
            such as `layer.11` or `encoder.layer.11`. Whether a model has them shows when it is created.
    Raises:
        ValueError, TypeError: the precision or skip_padding is unknown, or keep_layers is not a
            list of indices and names.
    """
    global _default
    _default = replace(_default, **_given(precision, skip_padding, keep_layers))


@contextmanager
def using(
    *,
    precision: str | None = None,
    skip_padding: bool | Literal["auto"] | None = None,
    keep_layers: Iterable[int | str] | None = None,
) -> Iterator[None]:
    """Like `configure`, for models created inside the `with` block by this thread."""
    overrides = {**_overrides.get({}), **_given(precision, skip_padding, keep_layers)}
    replace(_default, **overrides)  # an unknown precision is refused before the block is entered
    token = _overrides.set(overrides)
    try:
        yield
    finally:
        _overrides.reset(token)


def policy_of_config(config: Any, policy: Policy, num_layers: int | None = None) -> Policy:
    """`policy`, overridden by what a model's `config` says.

    `bert_op` is what `optimize` left there. `use_bfloat16` and `use_quantization` choose the two halves of
    the precision, and where neither it nor anything else chose one, the half that is not given is fp32 or
    unquantized; `quantization_factors` are used by the int8 precisions and otherwise left alone, since a
    saved config keeps them.

    Args:
        num_layers: how many layers the encoder has; by default as many as the config says.
    Raises:
        ValueError, TypeError: an option is unknown or does not fit the model.
    Warns:
        BertOpWarning: what is said by the numbers of layers was written for another number of them.
    """
    num_layers = config.num_hidden_layers if num_layers is None else num_layers
    saved = getattr(config, SAVED, None) or {}
    if not isinstance(saved, dict) or not saved.keys() <= {*_SAVED_OPTIONS, _NUM_LAYERS}:
        raise ValueError(
            f"config.{SAVED} is {saved!r}, but it holds options by name: {', '.join(_SAVED_OPTIONS)}. "
            "Remove what does not belong there."
        )
    saved = {**saved}
    written_for = saved.pop(_NUM_LAYERS, num_layers)
    factors = factors_of_config(config, num_layers)
    if written_for != num_layers and (saved.get("keep_layers") or getattr(config, _FACTORS, None)):
        saved["keep_layers"] = ()
        warnings.warn(
            f"bert_op: config.{SAVED} was written for {written_for} layers, and the model has {num_layers}: "
            f"its keep_layers and {_FACTORS} are not used. Choose and calibrate anew; to keep them, run the "
            "model once between changing its layers and saving it.",
            BertOpWarning,
            stacklevel=2,
        )
    policy = replace(policy, **saved)
    use_bfloat16, use_quantization = (said(config, name) for name in _HALVES)
    if use_bfloat16 is not None or use_quantization is not None:
        chosen = policy.precision or "fp32"
        bfloat16 = chosen.startswith("bf16") if use_bfloat16 is None else bool(use_bfloat16)
        quantized = policy.quantized if use_quantization is None else bool(use_quantization)
        precision = ("bf16" if bfloat16 else "fp32") + ("_qint8" if quantized else "")
        policy = replace(policy, precision=precision)
    names = [f"layer.{index}" for index in range(num_layers)]
    setting = f"config.{SAVED}['keep_layers']" if "keep_layers" in saved else "keep_layers"
    policy = replace(policy, keep_layers=check_kept_layers(policy.keep_layers, names, setting))
    return replace(policy, quantization_factors=factors) if policy.quantized else policy


def factors_of_config(config: Any, num_layers: int) -> tuple[float, ...]:
    """The static ranges that a model's `config` has for `num_layers` layers; none if it speaks of others.

    Raises:
        ValueError: they are no ranges, or not 8 a layer.
    """
    factors = getattr(config, _FACTORS, None)
    written_for = (getattr(config, SAVED, None) or {}).get(_NUM_LAYERS, num_layers)
    if factors is None or not len(factors) or written_for != num_layers:
        return ()
    return check_factors(factors, num_layers)


def save_to_config(config: Any, policy: Policy, num_layers: int | None = None) -> dict[str, Any]:
    """Write `policy` into `config`, so that it is saved with the model; returns the attributes before.

    What the config said in its own words is brought in line, for it outranks what is written here. The
    policy has a precision: there is nothing to save where nobody chose one. `num_layers`: how many it was
    made for, by default those of the config.
    """
    assert policy.precision is not None
    values: dict[str, Any] = {
        SAVED: {
            "precision": policy.precision,
            "skip_padding": policy.skip_padding,
            "keep_layers": list(policy.keep_layers),
            _NUM_LAYERS: config.num_hidden_layers if num_layers is None else num_layers,
        }
    }
    if policy.quantized:
        values[_FACTORS] = list(policy.quantization_factors) or None
    if said(config, "use_bfloat16") is not None:
        values["use_bfloat16"] = policy.precision.startswith("bf16")
    if said(config, "use_quantization") is not None:
        values["use_quantization"] = policy.quantized
    before = {name: getattr(config, name, None) for name in values}
    set_in_config(config, values)
    return before


def set_in_config(config: Any, values: Mapping[str, Any]) -> None:
    """Set attributes of `config`, and remove those whose value is None."""
    for name, value in values.items():
        if value is not None:
            setattr(config, name, value)
        elif hasattr(config, name):
            delattr(config, name)


def _given(
    precision: str | None,
    skip_padding: bool | Literal["auto"] | None,
    keep_layers: Iterable[int | str] | None,
) -> dict[str, Any]:
    kept = None if keep_layers is None else layer_selectors(keep_layers)
    choices = {"precision": precision, "skip_padding": skip_padding, "keep_layers": kept}
    return {name: value for name, value in choices.items() if value is not None}
