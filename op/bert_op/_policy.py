"""What models created from here on use: precision, padding, static activation ranges."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
FACTORS_PER_LAYER = 8

_FLAGS = {
    "1": True,
    "true": True,
    "on": True,
    "yes": True,
    "0": False,
    "false": False,
    "off": False,
    "no": False,
}


@dataclass(frozen=True)
class Policy:
    """How one encoder runs.

    Attributes:
        precision: one of `PRECISIONS`.
        skip_padding: leave out positions that no query attends; their rows are zero in the result.
        quantization_factors: empty, or 8 floats a layer for the int8 precisions: min and max of the inputs of
            QKV, attention output, intermediate and output.
    """

    precision: str = "fp32"
    skip_padding: bool = False
    quantization_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not isinstance(self.skip_padding, bool):
            raise TypeError(f"skip_padding={self.skip_padding!r} is not a bool: give True or False.")

    @property
    def quantized(self) -> bool:
        return self.precision.endswith("_qint8")


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


def _from_environment(environ: Mapping[str, str]) -> Policy:
    precision = environ.get("BERT_OP_PRECISION") or "fp32"
    check_precision(precision, "BERT_OP_PRECISION")
    flag = environ.get("BERT_OP_SKIP_PADDING") or "0"
    if flag.lower() not in _FLAGS:
        raise ValueError(f"BERT_OP_SKIP_PADDING={flag!r} is neither on nor off: set it to 1 or 0.")
    return Policy(precision=precision, skip_padding=_FLAGS[flag.lower()])


_default = _from_environment(os.environ)
_overrides: ContextVar[dict[str, Any]] = ContextVar("bert_op_overrides")


def current_policy() -> Policy:
    """The policy that a model created now takes."""
    return replace(_default, **_overrides.get({}))


def configure(*, precision: str | None = None, skip_padding: bool | None = None) -> None:
    """Set what models created from here on use; what is not given stays as it is.

    Raises:
        ValueError, TypeError: the precision is unknown, or skip_padding is not a bool.
    """
    global _default
    _default = replace(_default, **_given(precision, skip_padding))


@contextmanager
def using(*, precision: str | None = None, skip_padding: bool | None = None) -> Iterator[None]:
    """Like `configure`, for models created inside the `with` block by this thread."""
    overrides = {**_overrides.get({}), **_given(precision, skip_padding)}
    replace(_default, **overrides)  # an unknown precision is refused before the block is entered
    token = _overrides.set(overrides)
    try:
        yield
    finally:
        _overrides.reset(token)


def policy_of_config(config: Any, policy: Policy) -> Policy:
    """`policy`, overridden by the attributes of a model's `config` where it has them.

    `use_bfloat16` and `use_quantization` choose the two halves of the precision; `quantization_factors` are
    used by the int8 precisions and otherwise left alone, since a saved config keeps them.
    """
    use_bfloat16 = getattr(config, "use_bfloat16", None)
    use_quantization = getattr(config, "use_quantization", None)
    if use_bfloat16 is None and use_quantization is None:
        precision = policy.precision
    else:
        bfloat16 = policy.precision.startswith("bf16") if use_bfloat16 is None else bool(use_bfloat16)
        quantized = policy.quantized if use_quantization is None else bool(use_quantization)
        precision = ("bf16" if bfloat16 else "fp32") + ("_qint8" if quantized else "")
    policy = replace(policy, precision=precision)
    factors = getattr(config, "quantization_factors", None)
    if factors and policy.quantized:
        policy = replace(policy, quantization_factors=check_factors(factors, config.num_hidden_layers))
    return policy


def _given(precision: str | None, skip_padding: bool | None) -> dict[str, Any]:
    choices = {"precision": precision, "skip_padding": skip_padding}
    return {name: value for name, value in choices.items() if value is not None}
