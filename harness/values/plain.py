"""Frozen dataclasses to JSON and back, and files that are either old or new, never half written."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None.

    JSON has no NaN and no infinity: a number that is not finite becomes None, that is, absent.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(cls: type[T], plain: dict[str, Any]) -> T:
    """The dataclass `cls` from what `to_plain` made of it; an unknown field raises ValueError."""
    return typing.cast(T, _revive(cls, plain))


def _revive(hint: Any, plain: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return _revive(options[0], plain) if len(options) == 1 else plain
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        unknown = sorted(set(plain) - set(hints))
        if unknown:
            raise ValueError(f"{hint.__name__} has no field {', '.join(unknown)}")
        return hint(**{name: _revive(hints[name], item) for name, item in plain.items()})
    if origin is tuple:
        return tuple(_revive(typing.get_args(hint)[0], item) for item in plain)
    if hint is float and isinstance(plain, int):
        return float(plain)
    return plain


def write_text(path: Path, text: str) -> None:
    """Replaces `path` atomically: a reader, or a kill at any moment, meets the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(to_plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The plain content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
