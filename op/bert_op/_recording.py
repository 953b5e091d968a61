"""Whether a model records hidden states or attentions inside its encoder, in one of the ways of `_seam`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MethodType
from typing import Any

from bert_op._seam import HOOKS, PATCHES, RECORDED, Recorder


def _mark(recorder: Recorder) -> Any:
    try:
        return getattr(import_module(recorder.module), recorder.mark, None)
    except ModuleNotFoundError:
        return None


_collector = _mark(HOOKS)


def way_is_known() -> bool:
    """Whether models of the installed transformers record in one of these ways."""
    return _collector is not None or _mark(PATCHES) is not None


def recording() -> bool:
    """Whether something is recorded in this forward, by hooks."""
    return _collector is not None and bool(_collector.get())


def is_recording_hook(hook: object) -> bool:
    """Whether a hook is one of those that are idle unless `recording`."""
    return _collector is not None and getattr(hook, "__module__", None) == HOOKS.module


def replaced_forward(attributes: Iterable[Mapping[str, Any]]) -> str | None:
    """Why modules with these `__dict__`s do not all run the `forward` of their class, or None."""
    for own in (each for each in attributes if "forward" in each):
        forward = own["forward"]
        if getattr(forward, "__globals__", {}).get("__name__") == PATCHES.module:
            return RECORDED
        left_behind = (
            isinstance(forward, MethodType)
            and forward.__self__.__dict__ is own
            and forward.__func__ is getattr(type(forward.__self__), "forward", None)
        )
        if not left_behind:
            return "the forward method of a module inside the encoder was replaced"
    return None
