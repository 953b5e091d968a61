"""A compiled, fused BERT encoder for PyTorch on x86 CPUs.

Importing this package puts `BertEncoderOp` in the place of Hugging Face's `BertEncoder`, and its like in the
place of the encoders of RoBERTa, DistilBERT, MPNet and the other families of one mathematics: models created
later use it. Nothing changes but the speed; `optimize` and `configure` choose more.

The import itself is quick: Hugging Face's modules, which take seconds to import, are waited for, not
imported, and what is built on them is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bert_op._library import LibraryError, load, started_as_command
from bert_op._policy import configure, using
from bert_op._seam import BertOpWarning
from bert_op._substitution import substitute_on_import

if TYPE_CHECKING:
    from bert_op._calibrate import calibrate
    from bert_op._encoder import BertEncoderOp
    from bert_op._explain import explain
    from bert_op._optimize import optimize, restore
    from bert_op._profile import profile

__all__ = [
    "BertEncoderOp",
    "BertOpWarning",
    "LibraryError",
    "calibrate",
    "configure",
    "explain",
    "optimize",
    "profile",
    "restore",
    "using",
]

_LATER = {
    "BertEncoderOp": "bert_op._encoder",
    "calibrate": "bert_op._calibrate",
    "explain": "bert_op._explain",
    "optimize": "bert_op._optimize",
    "profile": "bert_op._profile",
    "restore": "bert_op._optimize",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'bert_op' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


try:
    load()
except LibraryError:
    if not started_as_command():  # which says it itself
        raise
substitute_on_import()
