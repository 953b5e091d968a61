"""Where transformers differs by version, and what is made of it: one row a difference.

The rest of the package asks for no version: it asks `read_seam` how the installed encoder of a family is
called, and that looks at the encoder itself. The tables here say what may be found, and what it means. An
encoder that looks otherwise stays Hugging Face's own, and one warning says so.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import CodeType
from typing import Any

OLDEST = (4, 56)
SUPPORTED = ">=4.56,<6"  # as pyproject.toml asks for
NEWEST_TESTED = "5.24.0"

CROSS_ATTENTION = "cross attention was asked for"
CACHE = "a key/value cache was asked for"
RECORDED = "hidden states or attentions are recorded"


@dataclass(frozen=True)
class Argument:
    """An argument that an encoder may be called with.

    Attributes:
        meaning: `input`, `mask`, `result` (whether a tuple is returned), `unread` (by nothing that the
            operator replaces), or else the reason for which the original path runs where it is given.
        met: the versions, and the families if not all.
        if_named: it has this meaning only for an encoder that names it; another one does not read it.
    """

    name: str
    meaning: str
    met: str
    if_named: bool = False


ARGUMENTS = (
    Argument("hidden_states", "input", "DistilBERT: since 5.0"),
    Argument("x", "input", "DistilBERT: before 5.0"),
    Argument("attention_mask", "mask", "DistilBERT: since 5.0"),
    Argument("attn_mask", "mask", "DistilBERT: before 5.0. Eager, it reads any mask as `MASK_BY_VIEW` says"),
    Argument(
        "head_mask", "argument head_mask was given", "before 5.0. None for each layer means no head mask"
    ),
    Argument("encoder_hidden_states", CROSS_ATTENTION, "families that can be decoders"),
    Argument("encoder_attention_mask", CROSS_ATTENTION, "families that can be decoders"),
    Argument("past_key_values", CACHE, "families that can be decoders. Since 5.24 an alias of `cache`"),
    Argument("cache", CACHE, "families that can be decoders: since 5.24"),
    Argument("use_cache", CACHE, "families that can be decoders; others get it since 5.0", if_named=True),
    Argument("cache_position", "unread", "before 5.4. Where in a cache to write: nowhere without one"),
    # Of encoders that are not asked for these, models record them: see PATCHES and HOOKS.
    Argument("output_attentions", RECORDED, "before 5.0; LayoutLM and its like: before 5.4; MPNet"),
    Argument("output_hidden_states", RECORDED, "before 5.0; LayoutLM and its like: before 5.4; MPNet"),
    Argument("return_dict", "result", "before 5.0; LayoutLM and its like: before 5.4; MPNet", if_named=True),
    Argument("position_ids", "unread", "since 5.0"),
    Argument("num_items_in_batch", "unread", "since 5.0"),
)
_BY_NAME = {argument.name: argument for argument in ARGUMENTS}

# Whatever its shape and type, it is viewed as (batch, length), and what is not 0 is attended.
MASK_BY_VIEW = "attn_mask"

# What an encoder's forward may be decorated with.
DECORATORS = {
    # LayoutLM and its like, before 5.4: without `return_dict`, the config says whether a tuple is returned.
    "transformers.utils.generic.can_return_tuple",
    # Families that can be decoders, since 5.24: names of former versions.
    "transformers.utils.deprecation.deprecate_kwarg",
}


@dataclass(frozen=True)
class Recorder:
    """How a model records hidden states and attentions that it does not ask its encoder for.

    Attributes:
        module: the functions that it puts into the layers are of this module.
        mark: what the module has in these versions.
        met: the versions, and what is left in the layers when nothing is recorded any more.
    """

    module: str
    mark: str
    met: str


PATCHES = Recorder(
    "transformers.utils.generic",
    "OutputRecorder",
    "5.0 and 5.1: in the place of `forward`, which each layer then keeps as an attribute",
)
HOOKS = Recorder(
    "transformers.utils.output_capturing",
    "_active_collector",
    "since 5.2: as hooks, which stay, and are idle while the collector is empty",
)

# Before 5.0 there was a class for each attention implementation, of one mathematics.
EARLIER_PARTS = {
    "BertSelfAttention": ("BertSdpaSelfAttention",),
    "RobertaSelfAttention": ("RobertaSdpaSelfAttention",),
    "XLMRobertaSelfAttention": ("XLMRobertaSdpaSelfAttention",),
    "CamembertSelfAttention": ("CamembertSdpaSelfAttention",),
    "DistilBertSelfAttention": ("MultiHeadSelfAttention", "DistilBertSdpaAttention"),
}

# Before 5.0 heads could be pruned: an attention module then has fewer than its config says, and lists which.
PRUNED = "pruned_heads"


# Before 5.0 every config has `use_bfloat16`, False if nobody set it: what a bare config has is not `said`.
_BARE_CONFIG = "transformers.configuration_utils"


class BertOpWarning(UserWarning):
    """The original path of a model runs, and why."""


class UnexpectedSeam(Exception):
    """Something is not where any known version has it. The message is a clause without a full stop."""


@dataclass(frozen=True)
class Seam:
    """How the encoder of one family is called.

    Attributes:
        parameters: the names of its parameters in order, without `self`.
        hidden_states, attention_mask: what it calls these two.
        read: the names of arguments that no original path is needed for.
        asked_for_recordings: whether it records hidden states and attentions itself, when asked for them.
        return_dict: whether it returns an object, not a tuple, if that is not said.
        by_config: whether its config says so then, and where it is said to be None.
    """

    parameters: tuple[str, ...]
    hidden_states: str
    attention_mask: str
    read: frozenset[str]
    asked_for_recordings: bool
    return_dict: bool | None
    by_config: bool

    def bind(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments of a call by name, or None if it cannot be called so."""
        call = {**dict(zip(self.parameters, arguments, strict=False)), **named}
        fits = len(call) == len(arguments) + len(named) and self.hidden_states in call
        return call if fits else None

    def asked(self, call: Mapping[str, Any]) -> str | None:
        """What the arguments of a call ask for that the operator does not do, or None."""
        for name, value in call.items():
            if name in self.read or value is None or value is False:
                continue
            if isinstance(value, (list, tuple)) and all(each is None for each in value):
                continue
            return _BY_NAME[name].meaning if name in _BY_NAME else f"argument {name} was given"
        return None

    def return_dict_of(self, call: Mapping[str, Any]) -> bool | None:
        """Whether this call returns an object, not a tuple; None: the encoder's config says."""
        named = "return_dict" in self.parameters
        return_dict = call.get("return_dict", self.return_dict) if named else self.return_dict
        return None if return_dict is None and self.by_config else bool(return_dict)


def read_seam(forward: Any) -> Seam:
    """How an encoder is called whose class has this `forward`.

    Raises:
        UnexpectedSeam: it is decorated with, takes, or lacks something, as no known version does.
    """
    decorators = set(_decorators(forward))
    if decorators - DECORATORS:
        raise UnexpectedSeam(f"its forward is decorated with {_listed(decorators - DECORATORS)}")
    signature = inspect.signature(forward).parameters
    _, *named = (name for name, parameter in signature.items() if parameter.kind is not parameter.VAR_KEYWORD)
    meanings = {name: _BY_NAME[name].meaning for name in named if name in _BY_NAME}
    if unknown := [name for name in named if _is_unknown(signature[name])]:
        raise UnexpectedSeam(f"its forward takes {_listed(unknown)}, as that of no known version does")
    inputs = [name for name in meanings if meanings[name] == "input"]
    masks = [name for name in meanings if meanings[name] == "mask"]
    if (len(inputs), len(masks)) != (1, 1) or named[0] != inputs[0]:
        raise UnexpectedSeam(f"its forward takes {_listed(named)}, among them not one input and one mask")
    by_config = any(name.endswith(".can_return_tuple") for name in decorators)
    default = signature["return_dict"].default if "return_dict" in named else True
    return Seam(
        parameters=tuple(named),
        hidden_states=inputs[0],
        attention_mask=masks[0],
        read=frozenset(
            argument.name
            for argument in ARGUMENTS
            if argument.meaning in ("input", "mask", "unread", "result")
            or (argument.if_named and argument.name not in named)
        ),
        asked_for_recordings="output_hidden_states" in named,
        return_dict=None if by_config else default,
        by_config=by_config,
    )


def said(config: Any, name: str) -> Any:
    """An attribute of a config, or None where it is absent or no more than what every config has."""
    value = getattr(config, name, None)
    bare = next((base for base in type(config).__mro__ if base.__module__ == _BARE_CONFIG), None)
    return None if bare is not None and value is getattr(_bare(bare), name, None) else value


@cache
def _bare(config_class: type) -> Any:
    return config_class()


def installed_version() -> str | None:
    """The version of transformers, which is not imported for that; None if there is nothing that tells it."""
    imported = getattr(sys.modules.get("transformers"), "__version__", None)
    if imported is not None:
        return str(imported)
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None


def too_old() -> str | None:
    """The sentence that says why nothing is substituted in the installed version; None if it will do."""
    version = installed_version()
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if numbers is None or tuple(map(int, numbers.groups())) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return (
        f"bert_op needs transformers {oldest} or newer, but {version} is installed: nothing is substituted, "
        f"and models run as they are. Upgrade with: pip install --upgrade 'transformers{SUPPORTED}'."
    )


def left_alone(family_name: str, reason: object) -> str:
    """The sentence that says that a family's models are not substituted."""
    installed = f"transformers {installed_version() or 'of an unknown version'}"
    return (
        f"bert_op leaves {family_name} models as {installed} has them, because {reason}. "
        f"It was tested up to {NEWEST_TESTED}."
    )


@cache
def warn_once(sentence: str) -> None:
    warnings.warn(sentence, BertOpWarning, stacklevel=2)


def _decorators(forward: Any) -> Iterator[str]:
    """The names of the functions that `forward` was decorated with."""
    while hasattr(forward, "__wrapped__"):
        code, beside = getattr(forward, "__code__", None), getattr(forward, "__globals__", {})
        # `wraps` gives it the name of what it wraps, and its code has a full name only since Python 3.11.
        makers = (
            name for name, maker in list(beside.items()) if _makes(getattr(maker, "__code__", None), code)
        )
        yield f"{beside.get('__name__')}.{next(makers, type(forward).__qualname__)}"
        forward = forward.__wrapped__


def _makes(maker: CodeType | None, code: CodeType | None) -> bool:
    """Whether `code` is that of a function which is defined inside `maker`'s."""
    inner = [constant for constant in maker.co_consts if isinstance(constant, CodeType)] if maker else []
    return any(each is code or _makes(each, code) for each in inner)


def _is_unknown(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.name not in _BY_NAME


def _listed(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names))
