"""What is read of an encoder's result by the model that it is in: what may be left out of it under
`skip_padding="auto"`.

Only models whose way from the encoder to their own result is known are looked into; of all others every row
is taken to be read. And only what such a model calls itself is read by it alone: who calls a part of it, say
`model.bert(...)`, sees the rows.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Literal

from torch import nn

Rows = Literal["all", "attended", "first"]
"""`attended`: rows of positions that the mask does not hide; `first`: also the first row of each sequence."""

# Classes of transformers that read the first row and return nothing of the others, by the ends of their
# names.
_FIRST_ROW = ("ForSequenceClassification", "ForMultipleChoice", "ForNextSentencePrediction")
# Modules of sentence-transformers that work on what Pooling made.
_AFTER_POOLING = ("Dense", "Dropout", "LayerNorm", "Normalize")


Place = tuple[str, int]
"""The file and the first line of a function."""


def rows_read(model: nn.Module, name: str) -> Rows:
    """What `model`, called as a whole, reads of the result of the encoder called `name` in it."""
    return reader_of(model, name)[0]


def reader_of(model: nn.Module, name: str) -> tuple[Rows, Place | None]:
    """What is read of the result of the encoder called `name` in `model`, and the `forward` that reads no
    more than that, if there is one."""
    path = name.split(".") if name else []
    for depth in range(len(path)):
        container = model.get_submodule(".".join(path[:depth]))
        if "forward" in vars(container):
            return "all", None
        rows = _rows_of_head(container) or _rows_of_embedder(container, path[depth])
        if rows is not None:
            code = inspect.unwrap(type(container).forward).__code__
            return rows, (code.co_filename, code.co_firstlineno)
    return "all", None


def is_running(place: Place | None) -> bool:
    """Whether this thread is inside of a call of the function at `place`."""
    if place is None:
        return False
    file, line = place
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_firstlineno == line and frame.f_code.co_filename == file:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _rows_of_head(model: nn.Module) -> Rows | None:
    kind = type(model)
    if not (kind.__module__.startswith("transformers.models.") and kind.__name__.endswith(_FIRST_ROW)):
        return None
    config: Any = getattr(model, "config", None)
    return "first" if getattr(config, "summary_type", "first") == "first" else "all"


def _rows_of_embedder(model: nn.Module, first: str) -> Rows | None:
    """Of a model of sentence-transformers whose module called `first` has the encoder."""
    if not _is_of_sentence_transformers(model, "SentenceTransformer"):
        return None
    modules = list(model.named_children())
    if len(modules) < 2 or modules[0][0] != first:
        return "all"
    (_, transformer), (_, pooling), *rest = modules
    known = _is_of_sentence_transformers(transformer, "Transformer")
    known = known and _is_of_sentence_transformers(pooling, "Pooling")
    if not known or not all(_is_of_sentence_transformers(module, *_AFTER_POOLING) for _, module in rest):
        return "all"
    modes = getattr(pooling, "pooling_mode", ())
    by_name = getattr(pooling, "pooling_mode_cls_token", False)  # before version 6
    return "first" if by_name or "cls" in modes else "attended"


def _is_of_sentence_transformers(module: nn.Module, *names: str) -> bool:
    kind = type(module)
    return kind.__module__.startswith("sentence_transformers.") and kind.__name__ in names
