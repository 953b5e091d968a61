"""The extension module that belongs to the library under test, and random packed models."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_WORDS = 510  # of 8 bytes, in the head of a packed model behind its checksum


def native() -> Any:
    """`bert_op._native`, from beside the library that `BERT_OP_PT_LIB` names, if it names one."""
    library = os.environ.get("BERT_OP_PT_LIB")
    if not library:
        return importlib.import_module("bert_op._native")
    (path,) = Path(library).parent.glob("_native*.so")
    spec = importlib.util.spec_from_file_location("_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_weights(
    generator: torch.Generator,
    hidden_size: int = 64,
    intermediate_size: int = 96,
    num_layers: int = 1,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """16 tensors a layer, of the size that trained ones have."""
    h, f = hidden_size, intermediate_size
    shapes = [*[(h, h), (h,)] * 4, (h,), (h,), (f, h), (f,), (h, f), (h,), (h,), (h,)]
    weights = []
    for _ in range(num_layers):
        for position, shape in enumerate(shapes):
            values = torch.randn(shape, generator=generator)
            if position in (8, 14):  # LayerNorm
                values = 1.0 + 0.2 * values
            else:
                values = values * (shape[1] ** -0.5 if len(shape) == 2 else 0.1)
            weights.append(values.to(dtype))
    return weights


def seal(arena: Tensor) -> Tensor:
    """Gives a packed model whose head was changed its right checksum: FNV-1a on words of 8 bytes."""
    total = 0xCBF29CE484222325
    for word in arena[16 : 16 + 8 * _WORDS].view(torch.int64).tolist():
        total = (total ^ (word & 0xFFFFFFFFFFFFFFFF)) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    arena[8:16] = torch.tensor(list(total.to_bytes(8, "little")), dtype=torch.uint8)
    return arena
