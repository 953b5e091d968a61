"""How many random cases the fuzz tests try, and how they are drawn.

`BERT_OP_FUZZ=50000 pytest tests/test_op_fuzz.py` tries that many for each test, others on each run. Without
it the tests are short and always the same. `BERT_OP_MAX_ISA` takes the encoder through a lower tier.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from op_reference import ACTIVATIONS
from torch import Tensor

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MASKS = ("none", "2-D", "4-D bool", "4-D additive")
_WANTED = int(os.environ.get("BERT_OP_FUZZ", "0"))


def tried(examples: int) -> Callable[[Any], Any]:
    """A decorator: `examples` cases that are always the same, or as many random ones as the user wants."""
    return settings(
        max_examples=_WANTED or examples,
        derandomize=not _WANTED,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Case:
    """One model and one call of it. Numbers come from `seed`, everything else is drawn."""

    seed: int
    batch: int
    seq_len: int
    num_heads: int
    head_size: int
    intermediate_size: int
    num_layers: int
    hidden_act: str
    layer_norm_eps: float
    precision: str
    static: bool
    skip_padding: bool
    threads: int
    dtype: torch.dtype
    weight_dtype: torch.dtype
    layout: str
    mask: str
    mask_dtype: torch.dtype
    mask_layout: str
    mask_dims: tuple[bool, bool, bool]
    attended: float

    @property
    def hidden_size(self) -> int:
        return self.num_heads * self.head_size


@st.composite
def cases(draw: st.DrawFn) -> Case:
    head_size = draw(st.sampled_from((32, 32, 64, 96, 128)))
    mask = draw(st.sampled_from(MASKS))
    dtypes = {
        "none": (torch.bool,),
        "2-D": (torch.bool, torch.int64, torch.int32, torch.uint8, *FLOATS),
        "4-D bool": (torch.bool,),
        "4-D additive": (*FLOATS, torch.float64),
    }
    return Case(
        seed=draw(st.integers(0, 2**31)),
        batch=draw(st.integers(1, 5)),
        seq_len=draw(st.one_of(st.integers(1, 20), st.integers(1, 70))),
        num_heads=draw(st.integers(1, 3 if head_size == 32 else 2)),
        head_size=head_size,
        intermediate_size=32 * draw(st.integers(1, 8)),
        num_layers=draw(st.integers(1, 3)),
        hidden_act=draw(st.sampled_from(sorted(ACTIVATIONS))),
        layer_norm_eps=draw(st.sampled_from((1e-12, 1e-5, 1e-3))),
        precision=draw(st.sampled_from(PRECISIONS)),
        static=draw(st.booleans()),
        skip_padding=draw(st.booleans()),
        threads=draw(st.sampled_from((1, 1, 1, 1, 1, 2, 3))),
        dtype=draw(st.sampled_from(FLOATS)),
        weight_dtype=draw(st.sampled_from((*FLOATS, torch.float64))),
        layout=draw(st.sampled_from(LAYOUTS)),
        mask=mask,
        mask_dtype=draw(st.sampled_from(dtypes[mask])),
        mask_layout=draw(st.sampled_from(LAYOUTS)),
        mask_dims=(draw(st.booleans()), draw(st.booleans()), draw(st.booleans())),
        attended=draw(st.sampled_from((0.0, 0.3, 0.8, 1.0))),
    )


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same values in other strides."""
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "every second":
        return torch.stack((values, values), dim=-1).flatten(-2)[..., ::2]
    if layout == "part":
        wide = torch.cat((values, values, values), dim=-1)
        return wide[..., values.shape[-1] : 2 * values.shape[-1]]
    return values


LAYOUTS = ("contiguous", "transposed", "every second", "part")


def make_mask(case: Case, generator: torch.Generator) -> Tensor | None:
    """A mask of the case's form; nothing promises that a query attends to any key."""
    if case.mask == "none":
        return None
    batch = case.batch if case.mask_dims[0] else 1
    if case.mask == "2-D":
        keep = torch.rand(batch, case.seq_len, generator=generator) < case.attended
        return laid_out(keep.to(case.mask_dtype), case.mask_layout)
    heads = case.num_heads if case.mask_dims[1] else 1
    rows = case.seq_len if case.mask_dims[2] else 1
    shape = (batch, heads, rows, case.seq_len)
    keep = torch.rand(shape, generator=generator) < case.attended
    mask = keep
    if case.mask == "4-D additive":
        # Not the lowest of fp16: beside -65504 fp32 has no room left for the scores, in torch neither.
        lowest = (-torch.inf, torch.finfo(torch.float32).min, -2000.0)[case.seed % 3]
        mask = torch.randn(shape, generator=generator).masked_fill(~keep, lowest).to(case.mask_dtype)
    mask = laid_out(mask, case.mask_layout)
    return mask.expand(case.batch, -1, case.seq_len, -1) if case.seed % 2 else mask
