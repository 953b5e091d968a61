"""The encoder again, from plain torch functions in double precision: what the operators are held against.

It shares nothing with the op but the order of the 16 tensors of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
NOT_ATTENDED = -1000.0


def encoder(
    hidden_states: Tensor,
    mask: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_heads: int,
    hidden_act: str,
    layer_norm_eps: float,
    skip_padding: bool = False,
) -> Tensor:
    """The last hidden states in fp64, (batch, seq_len, hidden_size); rows that are skipped are zero."""
    x = hidden_states.double()
    batch, seq_len, _ = x.shape
    scores_mask = additive(mask, batch, num_heads, seq_len)
    kept = torch.ones(batch, seq_len, dtype=torch.bool)
    if skip_padding:
        kept = (scores_mask > NOT_ATTENDED).any(dim=1).any(dim=1)
        scores_mask = scores_mask.masked_fill(~kept[:, None, None, :], -torch.inf)
    for index in range(0, len(weights), 16):
        layer = [weight.double() for weight in weights[index : index + 16]]
        x = _layer(x, scores_mask, layer, num_heads, hidden_act, layer_norm_eps)
    return x.masked_fill(~kept[:, :, None], 0.0)


def additive(mask: Tensor | None, batch: int, num_heads: int, seq_len: int) -> Tensor:
    """Any accepted form of mask as fp64 added to the scores, (batch, num_heads, seq_len, seq_len)."""
    full = (batch, num_heads, seq_len, seq_len)
    if mask is None:
        return torch.zeros(full, dtype=torch.float64)
    if mask.dim() == 2:
        mask = mask.ne(0)[:, None, None, :]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    return mask.double().expand(full)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
    """softmax(q k^T scale + mask) v over the last two dimensions; zeros where the mask leaves no key."""
    scores = query @ key.transpose(-1, -2) * scale + mask
    return torch.softmax(scores, dim=-1).nan_to_num(0.0) @ value


def _layer(
    x: Tensor, mask: Tensor, layer: Sequence[Tensor], num_heads: int, hidden_act: str, eps: float
) -> Tensor:
    batch, seq_len, hidden_size = x.shape
    heads = (batch, seq_len, num_heads, hidden_size // num_heads)
    query, key, value = (F.linear(x, *layer[i : i + 2]).view(heads).transpose(1, 2) for i in (0, 2, 4))
    context = attention(query, key, value, heads[-1] ** -0.5, mask).transpose(1, 2).reshape(x.shape)
    x = F.layer_norm(x + F.linear(context, *layer[6:8]), (hidden_size,), *layer[8:10], eps=eps)
    intermediate = ACTIVATIONS[hidden_act](F.linear(x, *layer[10:12]))
    return F.layer_norm(x + F.linear(intermediate, *layer[12:14]), (hidden_size,), *layer[14:16], eps=eps)
