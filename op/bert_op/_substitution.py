"""What importing the package changes in transformers, and what keeps working because of it."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bert_op._families import FAMILIES, Family, family_of_class
from bert_op._seam import UnexpectedSeam, left_alone, too_old, warn_once

if TYPE_CHECKING:
    from torch import nn


def substitute_on_import() -> None:
    """Let models created from here on have our encoder where they would have had one of a family's own.

    A family's module that is not imported yet is waited for. What `bert_op` does not know stays as it is, and
    a warning says so.
    """
    if reason := too_old():
        warn_once(reason)
        return
    awaited = {}
    for family in FAMILIES:
        if family.module in sys.modules:
            _substitute(family, sys.modules[family.module])
        else:
            awaited[family.module] = family
    if awaited:
        sys.meta_path.insert(0, _Watch(awaited))


def _substitute(family: Family, module: ModuleType) -> None:
    """Put ours where Hugging Face's `module` has the family's encoder class, which stays picklable."""
    try:
        from bert_op._encoder import replacement  # takes its time, of which `import bert_op` needs none

        ours = replacement(family)
    except (ImportError, UnexpectedSeam) as reason:  # whatever it is, Hugging Face's module can be imported
        warn_once(left_alone(family.name, reason))
        return
    setattr(module, family.encoder_name, ours)
    # pickle finds a class by its name, which now leads to ours: the original class needs another way.
    copyreg.pickle(family.encoder, _reduce_original)


class _Watch(MetaPathFinder):
    """Sees the import of Hugging Face's modules coming, each once."""

    def __init__(self, awaited: dict[str, Family]) -> None:
        self.awaited = awaited

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.awaited:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenSubstitute(spec.loader, self.awaited)
        return spec


class _ThenSubstitute(Loader):
    """Hugging Face's own loader, and then the substitution."""

    def __init__(self, loader: Loader, awaited: dict[str, Family]) -> None:
        self.loader = loader
        self.awaited = awaited

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        assert module.__spec__ is not None
        module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        family = self.awaited.pop(module.__name__, None)
        if family is not None:
            _substitute(family, module)


def _reduce_original(encoder: nn.Module) -> tuple[Any, ...]:
    family = family_of_class(type(encoder))
    assert family is not None
    return _new_original, (family.name,), encoder.__dict__.copy()


def _new_original(name: str) -> nn.Module:
    original: Any = next(family for family in FAMILIES if family.name == name).encoder
    return original.__new__(original)
