"""Whether anything changed in a set of Python objects and tensors, asked of the memory that they are in.

Before each forward hundreds of objects have to be as they were. `Watch` notes the words of memory that tell:
where an object keeps its type, a dict the number of its last change, a tensor its storage, its version and
the address of its data. One C loop compares them all (cpp/bindings/watch.cpp).

Where these words are is not written here but found by example, once in a process: by looking for what they
are known to hold. What is not found, in some other interpreter or torch, is compared in Python instead.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from bert_op._library import watch_function

_WORD = 8
# Samples of a weight: so many, of one word each, of which one is compared in each call.
SAMPLES = 8


@dataclass(frozen=True)
class TensorLayout:
    """Offsets in bytes.

    Attributes:
        implementation: of the pointer to the C++ tensor in the Python object.
        storage, version: of the pointers to the storage and the version counter in the C++ tensor.
        shape: of the words from the sizes to the offset in the storage, in the C++ tensor.
        data: of the address of the data in the storage.
        count: of the number of in-place writes in the version counter.
    """

    implementation: int
    storage: int
    version: int
    shape: range
    data: int
    count: int


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes of what tells of a change; None where it was not found.

    Attributes:
        type: of the type of an object.
        code: of the code of a function.
        dict_change: of a number that no two states of any dict share (CPython up to 3.12).
        tensor: of what belongs to a tensor.
    """

    type: int | None
    code: int | None
    dict_change: int | None
    tensor: TensorLayout | None


@functools.cache
def layout() -> Layout:
    """Where this interpreter and this torch keep what has to be watched."""

    class Example:
        pass

    example = Example()

    def function() -> None:
        pass

    return Layout(
        type=_offset(id(example), 2, id(Example)),
        code=_offset(id(function), FunctionType.__basicsize__ // _WORD, id(function.__code__)),
        dict_change=_find_dict_change(),
        tensor=_find_tensor_layout(),
    )


def _read(address: int, words: int) -> list[int]:
    return list((ctypes.c_uint64 * words).from_address(address))


def _offset(address: int, words: int, *held: int) -> int | None:
    """In bytes, of the only place among `words` where `held` is."""
    found = _read(address, words)
    hits = [i for i in range(words) if tuple(found[i : i + len(held)]) == held]
    return _WORD * hits[0] if len(hits) == 1 else None


def _find_dict_change() -> int | None:
    table: dict[str, object] = {"a": 1, "b": 2}
    states = []
    for write in (table.copy, lambda: table.update(a=3), lambda: table.update(c=4), lambda: table.pop("a")):
        write()
        states.append(_read(id(table), dict.__basicsize__ // _WORD))
        table.get("b")
        if _read(id(table), dict.__basicsize__ // _WORD) != states[-1]:
            return None
    hits = [i for i, words in enumerate(zip(*states, strict=True)) if len(set(words)) == len(states)]
    return _WORD * hits[0] if len(hits) == 1 else None


def _find_tensor_layout() -> TensorLayout | None:
    """From tensors whose properties are all different numbers."""
    words = 20  # a C++ tensor has at least as many
    base, other = torch.zeros(4001, 3), torch.zeros(4001, 3)
    part = base[1237:3456]
    inside, storage = part._cdata, part.untyped_storage()
    implementation = _offset(id(part), Tensor.__basicsize__ // _WORD, inside)
    at_storage = _offset(inside, words, storage._cdata)
    data = _offset(storage._cdata, 3, storage.data_ptr())
    sizes, start = _offset(inside, words, *part.shape), _offset(inside, words, part.storage_offset())
    # Views share the storage and the version counter with their base, and no other object.
    states = zip(*(_read(each._cdata, words) for each in (base, part, base.detach(), other)), strict=True)
    shared = [_WORD * i for i, (*ours, others) in enumerate(states) if set(ours) == {ours[0]} != {others}]
    counters = [place for place in shared if place != at_storage]
    if implementation is None or at_storage is None or data is None or sizes is None or start is None:
        return None
    if len(counters) != 1:
        return None
    (counter,) = _read(inside + counters[0], 1)
    before = _read(counter, 3)
    for _ in range(5):
        base.zero_()
    after = _read(counter, 3)
    counts = [_WORD * i for i in range(3) if after[i] - before[i] == 5]
    if len(counts) != 1:
        return None
    shape = range(sizes, start + _WORD, _WORD)
    return TensorLayout(implementation, at_storage, counters[0], shape, data, counts[0])


class _Words:
    """Words of memory and what they held."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], int] = {}

    def add(self, place: int, depth: int = 0) -> int:
        """Watch the word at `place`, which `depth` pointers lead to that are watched, too; what it holds."""
        (value,) = _read(place, 1)
        self._held[depth, place] = value
        return value

    def question(self) -> Callable[[], int]:
        """A function that tells whether they still hold it; no word may be added after.

        Pointers come before what they lead to, and apart from that words in the order of their addresses: so
        a page of memory is looked up once.
        """
        self._places = array("Q", [place for _, place in sorted(self._held)])
        self._values = array("Q", [self._held[key] for key in sorted(self._held)])
        places, values = (ctypes.c_void_p(words.buffer_info()[0]) for words in (self._places, self._values))
        return functools.partial(watch_function(), places, values, ctypes.c_int64(len(self._places)))


class Watch:
    """Objects that have to stay as they are now; it keeps them alive, but not the data of tensors.

    Add them, `start`, then ask `same` any number of times, from any thread.
    """

    def __init__(self) -> None:
        self._words = _Words()
        self._samples = [_Words() for _ in range(SAMPLES)]
        self._kept: list[Any] = []
        # What has to be asked of Python.
        self._dicts: list[dict[Any, Any]] = []
        self._asked: list[Callable[[], Any]] = []

    def add_type(self, thing: object) -> None:
        self._add(thing, layout().type, functools.partial(type, thing))

    def add_code(self, function: FunctionType) -> None:
        self._add(function, layout().code, functools.partial(getattr, function, "__code__"))

    def add_dict(self, table: dict[Any, Any]) -> None:
        """Its keys, and which objects its values are."""
        if layout().dict_change is None:
            self._dicts.append(table)
        else:
            self._add(table, layout().dict_change, table.copy)

    def add_module(self, module: nn.Module) -> None:
        """Its class, its parts, numbers and forward hooks (without gradients no other is called); not its
        parameters."""
        self.add_type(module)
        for table in (vars(module), module._modules, module._forward_hooks, module._forward_pre_hooks):
            self.add_dict(table)

    def add_tensor(self, tensor: Tensor) -> None:
        """Where its data is, how it lies there, and how often torch wrote to it."""
        found = layout().tensor
        if found is None:
            self._asked += [tensor.data_ptr, tensor.stride, functools.partial(_version, tensor)]
            return
        self._kept.append(tensor)
        inside = self._words.add(id(tensor) + found.implementation)
        self._words.add(self._words.add(inside + found.storage, 1) + found.data, 2)
        for place in found.shape:
            self._words.add(inside + place, 1)
        if counter := self._words.add(inside + found.version, 1):  # inference tensors count nothing
            self._words.add(counter + found.count, 2)

    def add_samples(self, address: int, span: int, item: int) -> None:
        """Words spread over the `span` bytes of a tensor's data at `address`, at elements of `item` bytes."""
        if span >= _WORD:
            for turn, words in enumerate(self._samples):
                words.add(address + (span - _WORD) * turn // (SAMPLES - 1) // item * item)

    def start(self) -> None:
        self._copies = [table.copy() for table in self._dicts]
        self._answers = [ask() for ask in self._asked]
        self._unchanged = self._words.question()
        self._turns = itertools.cycle([words.question() for words in self._samples])

    def same(self) -> bool:
        """Whether all is as it was; of the samples, one of each tensor is looked at."""
        return bool(
            self._unchanged()
            and (not (self._dicts or self._asked) or self._same_in_python())
            and next(self._turns)()  # last: data may be read only where it still is
        )

    def all_samples_same(self) -> bool:
        """Whether all samples are as they were, after `same`."""
        return all(words() for words in [next(self._turns) for _ in range(SAMPLES)])

    def _same_in_python(self) -> bool:
        try:
            return self._dicts == self._copies and [ask() for ask in self._asked] == self._answers
        except RuntimeError:  # a tensor in the place of another has no truth value
            return False

    def _add(self, thing: Any, place: int | None, ask: Callable[[], Any]) -> None:
        if place is None:
            self._asked.append(ask)
        else:
            self._kept.append(thing)
            self._words.add(id(thing) + place)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
