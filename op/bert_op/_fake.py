"""Shapes without data: what the operators return under tracing, export and compilation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _encoder(
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    packed: Sequence[Tensor],
    *,
    skip_padding: bool = False,
) -> Tensor:
    return torch.empty_like(hidden_states, memory_format=torch.contiguous_format)


def _prepack(weights: Sequence[Tensor], **sizes: object) -> list[Tensor]:
    # The layout, and so the size, is the library's own affair.
    return [weights[0].new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)]


for _name, _fake in (("encoder", _encoder), ("prepack", _prepack)):
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"bert_op::{_name}", "Meta"):
        torch.library.register_fake(f"bert_op::{_name}", _fake)
