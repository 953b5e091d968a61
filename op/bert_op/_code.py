"""Whether the Python code that the operator stands for is still what Hugging Face and torch wrote.

The operator computes what the classes of a family compute, so it may run only as long as their methods, and
the functions that these call by name, are the ones that were there when the family was imported. What was
replaced even before is told by the file that its code is from.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn
from transformers import modeling_utils

from bert_op._families import Family
from bert_op._watch import Watch

# What a call of a module goes through, in whichever class of its bases it is; torch's own recorders of graphs
# put theirs in the place of all but the last.
_RECORDED = ("__call__", "__getattr__", "__getattribute__", "_call_impl", "_wrapped_call_impl")
_CALL = (*_RECORDED, "forward")
# Names that only making, printing and saving go through.
_NOT_CALLED = ("__init__", "__init_subclass__", "__repr__", "extra_repr")
# Functions of these modules are followed into what they call.
_FOLLOWED = (
    "torch.nn.functional",
    "torch.nn.modules.activation",
    "torch.nn.modules.dropout",
    "torch.nn.modules.linear",
    "torch.nn.modules.normalization",
    "transformers.activations",
    "transformers.integrations.sdpa_attention",
    "transformers.modeling_layers",
    "transformers.pytorch_utils",
)
_NAMESPACES = (torch, nn, nn.functional)
# Where their code comes from, told by modules inside: the test tools of transformers change its `__file__`.
_PACKAGES = tuple(
    os.path.dirname(os.path.abspath(str(module.__file__))) for module in (torch, modeling_utils)
)
_ABSENT = object()


@dataclass(frozen=True, eq=False)
class Place:
    """Where a function is looked up: `table[name]`; `held` was there, a function with `code`.

    `label` says it to people.
    """

    table: dict[str, Any]
    name: str
    label: str
    held: Any
    code: CodeType | None

    def same(self) -> bool:
        found = self.table.get(self.name, _ABSENT)
        if self.name in _RECORDED and not _is_foreign(found):
            return True
        return found is self.held and getattr(found, "__code__", None) is self.code


@dataclass(frozen=True, eq=False)
class Code:
    """The code that an encoder of one family runs through, as it was when this was made."""

    places: tuple[Place, ...]

    def change(self) -> str | None:
        """What is not the original, a clause, or None."""
        for place in self.places:
            if _is_foreign(place.table.get(place.name)) or not (place.same() or _is_foreign(place.held)):
                return f"{place.label} was replaced"
        return None

    def watch(self, watch: Watch) -> None:
        for table in {id(place.table): place.table for place in self.places}.values():
            watch.add_dict(table)
        for place in self.places:
            if isinstance(place.held, FunctionType):
                watch.add_code(place.held)


@functools.cache
def code_of(family: Family) -> Code:
    """To be asked for first when the family's module was just imported, before anybody changed it."""
    found: dict[tuple[int, str], Place] = {}
    todo: list[FunctionType] = []

    def add(table: dict[str, Any], name: str, label: str) -> None:
        key, held = (id(table), name), table.get(name, _ABSENT)
        if key in found:
            return
        found[key] = Place(table, name, label, held, getattr(held, "__code__", None))
        function = held.fget if isinstance(held, property) else getattr(held, "__func__", held)
        if isinstance(function, FunctionType):
            todo.append(function)

    for kind in _classes(family):
        table = _namespace_of(kind)
        own = kind.__module__.startswith("transformers.")
        names = {n for n, value in table.items() if isinstance(value, FunctionType)} if own else set()
        for name in sorted({*names, *_CALL} - {*_NOT_CALLED}):
            add(table, name, f"{kind.__module__}.{kind.__qualname__}.{name}")
    for table, label in _attention_functions(family):
        for name in ("eager", "sdpa"):
            add(table, name, f"{label}[{name!r}]")
    done: set[int] = set()
    while todo:
        function = todo.pop()
        wrapped = getattr(function, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            todo.append(wrapped)
        home = function.__globals__
        if id(function) in done or home["__name__"] not in (*_FOLLOWED, family.module):
            continue
        done.add(id(function))
        for name in _names_in(function.__code__):
            for table in (home, *(each.__dict__ for each in _NAMESPACES)):
                if callable(table.get(name)):
                    add(table, name, f"{table['__name__']}.{name}")
    return Code(tuple(found.values()))


def _classes(family: Family) -> Iterator[type]:
    """Those of which an encoder of the family consists, and what they are derived from."""
    from bert_op._layer import activation_classes

    kinds = {
        kind: None for part in (family.encoder, *family.parts, *activation_classes()) for kind in part.__mro__
    }
    kinds.pop(object)
    return iter(kinds)


def _namespace_of(kind: type) -> dict[str, Any]:
    """The dict itself, of which `__dict__` is a view."""
    (namespace,) = (each for each in gc.get_referents(kind.__dict__) if isinstance(each, dict))
    return namespace


def _attention_functions(family: Family) -> Iterator[tuple[dict[str, Any], str]]:
    interface = getattr(importlib.import_module(family.module), "ALL_ATTENTION_FUNCTIONS", None)
    for name in ("_local_mapping", "_global_mapping"):
        table = getattr(interface, name, None)
        if isinstance(table, dict):
            yield table, "ALL_ATTENTION_FUNCTIONS"


def _names_in(code: CodeType) -> set[str]:
    nested = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*nested)


def _is_foreign(function: Any) -> bool:
    """Whether it is Python code from elsewhere than torch and transformers."""
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and not code.co_filename.startswith(_PACKAGES)
