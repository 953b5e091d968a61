"""What an attention mask means to Hugging Face's attention, said to the operator; or why it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_DTYPES = (torch.bool, torch.float32, torch.bfloat16, torch.float16)
# The operator takes what is added to a score for "not attended" from here on.
_NOT_ATTENDED = -1000.0


def aligned(mask: Any, hidden_states: Tensor) -> Any:
    """`mask` with the dimensions that Hugging Face would add by broadcasting it to (batch, heads, S, S).

    A 2-D mask that does not fit (S, S), where Hugging Face fails, is left to the operator: it is (batch, S),
    nonzero = attend.
    """
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 3):
        return mask
    seq_len = hidden_states.shape[1]
    if mask.dim() == 3:
        return mask[None]
    fits = mask.shape[0] in (1, seq_len) and mask.shape[1] in (1, seq_len)
    return mask[None, None] if fits and mask.dtype in _DTYPES else mask


def mask_reason(mask: Any, hidden_states: Tensor, eager: Callable[[], bool]) -> str | None:
    """Why the operator cannot do what Hugging Face does with an `aligned` mask, or None.

    Args:
        eager: tells whether it is added to the scores, whatever it is.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        return f"the attention mask is a {type(mask).__name__}"
    if mask.dim() == 2:
        return None
    if mask.dim() != 4:
        return f"the attention mask has {mask.dim()} dimensions"
    if mask.shape[3] == 1 and hidden_states.shape[1] != 1:
        return "the attention mask has one column for all keys"
    if mask.dtype not in _DTYPES:
        return f"the attention mask has dtype {mask.dtype}"
    if mask.dtype == torch.bool and eager():
        return "eager attention adds the boolean attention mask to the scores"
    return None


def first_rows_attended(mask: Tensor | None) -> bool:
    """Whether the first position of every sequence is attended by its own query."""
    if mask is None:
        return True
    first = mask[:, 0] if mask.dim() == 2 else mask[:, :, 0, 0]
    attended = first > _NOT_ATTENDED if mask.is_floating_point() and mask.dim() == 4 else first != 0
    return bool(attended.all())
