"""Find and load the compiled operators, `torch.ops.bert_op.*`.

The library is looked for once, when `bert_op` is imported: at `BERT_OP_PT_LIB` if that is set, else beside
this file, or where an editable install puts what it builds. It is built on torch's stable C++ interface, so
that one file fits every torch from `OLDEST_TORCH` on. Whatever is wrong with it is reported at once, in one
paragraph.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from bert_op import _operators

LIBRARY_NAME = "libBertOpPT.so"
PATH_VARIABLE = "BERT_OP_PT_LIB"
TIER_VARIABLE = "BERT_OP_MAX_ISA"
TIERS = ("portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "amx")
OLDEST_TORCH = (2, 11)

_OPERATORS = (
    "prepack",
    "encoder",
    "start_profile",
    "stop_profile",
    "build_info",
    "threads",
    "plan",
    "describe",
    "measure_peak",
)
_WATCH = "bert_op_unchanged"
_loaded_from: str | None = None


class LibraryError(ImportError):
    """The compiled library cannot be used; the message names the setting, its value and the remedy."""


def load() -> None:
    """Register `torch.ops.bert_op.*`, unless the process has them already.

    Raises:
        LibraryError: torch is too old, no library was found, it is none, or `BERT_OP_MAX_ISA` names a tier
            that is unknown or that this CPU lacks.
    """
    global _loaded_from
    _check_torch()
    if not _registered():
        path = library_path()
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            raise LibraryError(_explain_load_failure(path, error)) from error
        if not _registered():
            raise LibraryError(
                f"{_origin(path)} is a library, but it does not register the operators of bert_op. "
                f"Give the path of the {LIBRARY_NAME} that this project builds."
            )
        _loaded_from = str(path)
    elif os.environ.get(PATH_VARIABLE) and str(library_path()) not in torch.ops.loaded_libraries:
        raise LibraryError(
            f"{_origin(library_path())} cannot be used: the process had loaded the operators of bert_op from "
            f"another library before. Load that one, or unset {PATH_VARIABLE}."
        )
    build_info()
    _operators.complete()


def started_as_command() -> bool:
    """Whether this is the import with which `python -m bert_op` begins."""
    arguments = sys.orig_argv
    where = arguments.index("-m") + 1 if "-m" in arguments else len(arguments)
    return sys.argv[:1] == ["-m"] and arguments[where : where + 1] == ["bert_op"]


def loaded_from() -> str | None:
    """The path of the library, or None if the process had loaded it before `bert_op` was imported."""
    return _loaded_from


@functools.cache
def build_info() -> dict[str, Any]:
    """What the library says of itself: version, commit, compiler, the torch whose headers it was built with,
    and the ISA tier in use.

    Raises:
        LibraryError: `BERT_OP_MAX_ISA` cannot be honoured.
    """
    try:
        info: dict[str, Any] = json.loads(torch.ops.bert_op.build_info())
    except RuntimeError as error:
        tier = os.environ.get(TIER_VARIABLE)
        raise LibraryError(
            f"{TIER_VARIABLE}={tier!r} cannot be used on this machine: {str(error).splitlines()[0]}. "
            f"Unset it to take the best tier of this CPU, or set it to a lower one of {', '.join(TIERS)}."
        ) from error
    return info


@functools.cache
def watch_function() -> Any:
    """`bert_op_unchanged` of cpp/bindings/watch.cpp; its callers hold the interpreter's lock.

    Raises:
        LibraryError: the library is older than this package.
    """
    for path in torch.ops.loaded_libraries:
        function = getattr(ctypes.PyDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW), _WATCH, None)
        if function is not None:
            return function
    raise LibraryError(
        f"None of the libraries {sorted(torch.ops.loaded_libraries)} has the symbol {_WATCH}: the library of "
        f"bert_op is older than its Python package. Build it again, or give {PATH_VARIABLE} one that fits."
    )


def library_path() -> Path:
    """The file that holds the operators; it is not promised to exist when `BERT_OP_PT_LIB` names it.

    Raises:
        LibraryError: `BERT_OP_PT_LIB` is not set and no library is installed.
    """
    chosen = os.environ.get(PATH_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    homes = [Path(__file__).parent, *map(Path, sys.modules[__package__].__path__)]
    for home in homes:
        if (home / LIBRARY_NAME).is_file():
            return home / LIBRARY_NAME
    raise LibraryError(
        f"The compiled library {LIBRARY_NAME} is not installed beside bert_op "
        f"({', '.join(dict.fromkeys(map(str, homes)))}) and {PATH_VARIABLE} is not set. Install the project "
        f"(make run does), or build the library with CMake and set {PATH_VARIABLE}=build/{LIBRARY_NAME}."
    )


def _registered() -> bool:
    return all(torch._C._dispatch_has_kernel(f"bert_op::{name}") for name in _OPERATORS)


def _origin(path: Path) -> str:
    return f"{PATH_VARIABLE}={path}" if os.environ.get(PATH_VARIABLE) else str(path)


def _explain_load_failure(path: Path, error: OSError) -> str:
    origin, detail = _origin(path), str(error).splitlines()[0]
    if not path.exists():
        return (
            f"{origin} does not exist. Build the library, or unset {PATH_VARIABLE} to use the installed one."
        )
    if path.is_dir():
        return f"{origin} is a directory. Give the path of the file {LIBRARY_NAME} itself."
    if "undefined symbol" in detail or "version `" in detail:
        return (
            f"{origin} does not fit torch {torch.__version__}: it was built against another version "
            f"({detail}). Build it again in this environment, or unset {PATH_VARIABLE}."
        )
    return (
        f"{origin} cannot be loaded as a shared library ({detail}). "
        f"Give the path of the {LIBRARY_NAME} that this project builds, or unset {PATH_VARIABLE}."
    )


def _check_torch() -> None:
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise LibraryError(
            f"bert_op needs torch {oldest} or newer, but torch {torch.__version__} is installed: its stable "
            f"interface lacks what the operators use. Install a newer one: pip install 'torch>={oldest}'."
        )
