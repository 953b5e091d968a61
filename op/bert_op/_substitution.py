"""What importing the package changes in transformers, and what keeps working because of it."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MODULE = "transformers.models.bert.modeling_bert"
_OURS = "bert_op._encoder"
_UNDER_OURS = "bert_op._families"


def substitute_on_import() -> None:
    """Let models created from here on have `BertEncoderOp` where they would have had `BertEncoder`.

    That happens at the end of our encoder's module. It is imported now if Hugging Face's is already,
    otherwise right after that one.
    """
    if MODULE in sys.modules:
        import_module(_OURS)
    else:
        sys.meta_path.insert(0, _Watch())


def substitute(modeling_bert: Any, original: type[nn.Module], replacement: type[nn.Module]) -> None:
    """Put `replacement` where Hugging Face's module has `original`, which stays picklable."""
    modeling_bert.BertEncoder = replacement
    # pickle finds a class by its name, which now leads to ours: the original class needs another way.
    copyreg.pickle(original, _reduce_original)


class _Watch(MetaPathFinder):
    """Sees the import of Hugging Face's module coming, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenSubstitute(spec.loader)
        return spec


class _ThenSubstitute(Loader):
    """Hugging Face's own loader, and then the import of our encoder."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        assert module.__spec__ is not None
        module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        # If ours are what asks for Hugging Face's module, they are half imported and end by themselves.
        if _OURS not in sys.modules and _UNDER_OURS not in sys.modules:
            import_module(_OURS)


def _reduce_original(encoder: nn.Module) -> tuple[Any, ...]:
    return _new_original, (), encoder.__dict__.copy()


def _new_original() -> nn.Module:
    from bert_op._encoder import BertEncoderOp

    original: Any = BertEncoderOp.family.encoder
    return original.__new__(original)
