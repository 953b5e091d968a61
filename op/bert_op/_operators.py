"""What torch has to know of the operators and torch's stable C++ interface cannot tell it.

Three things: the shape that `encoder` returns (for graphs that are recorded with fake tensors), that a
backward pass through it raises, and that a forked child begins with one thread. None of them is needed to run
a recorded graph, in this process or in one without Python.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INFERENCE_ONLY = (
    "the derivative of bert_op::encoder is not implemented, since it is for inference: call the model under "
    "torch.no_grad() or torch.inference_mode(), or train it in training mode, in which Hugging Face's own "
    "path runs."
)

_library: torch.library.Library | None = None  # what is registered lives as long as this object


def complete() -> None:
    """Tell torch the rest about `torch.ops.bert_op.*`, once in a process; the library has to be loaded."""
    global _library
    if _library is not None:
        return
    _library = torch.library.Library("bert_op", "IMPL")
    for name in ("encoder", "encoder.joined"):
        torch.library.register_fake(f"bert_op::{name}", _fake_encoder, lib=_library)
        _library.impl(name, _with_autograd(name), "Autograd")
    # A child of fork() inherits the records of its parent's OpenMP pool, but not the threads, and its first
    # parallel region would wait for them forever, be it the op's or torch's own. So it begins with one
    # thread, as DataLoader's workers do.
    os.register_at_fork(after_in_child=_begin_with_one_thread)


def _begin_with_one_thread() -> None:
    torch.set_num_threads(1)


def _fake_encoder(
    hidden_states: Tensor, attention_mask: Tensor | None, packed: Any, *, skip_padding: bool = False
) -> Tensor:
    """A tensor like `hidden_states` (B, S, H), contiguous."""
    if hidden_states.dim() != 3:
        raise RuntimeError(
            "bert_op::encoder: hidden_states must be (batch, seq_len, hidden_size), got "
            f"{hidden_states.dim()} dimensions"
        )
    if hidden_states.dtype not in _DTYPES:
        raise RuntimeError(
            f"bert_op::encoder: hidden_states must be float32, bfloat16 or float16, not {hidden_states.dtype}"
        )
    others = [attention_mask, *([packed] if isinstance(packed, Tensor) else packed)]
    if hidden_states.device.type != "meta" and any(
        tensor is not None and tensor.device.type == "meta" for tensor in others
    ):  # the result would be memory that nobody wrote
        raise RuntimeError(
            f"bert_op::encoder: hidden_states are on {hidden_states.device}, but attention_mask or packed is "
            "on meta"
        )
    return torch.empty_like(hidden_states, memory_format=torch.contiguous_format)


def _with_autograd(name: str) -> Callable[..., Tensor]:
    """What the operator does above its kernels: run them, so that a backward pass through it raises instead
    of taking its result for a constant.

    By hand, since what `torch.library.register_autograd` makes of a rule costs 10 us a call, whether
    gradients are asked for or not.
    """
    operator = getattr(torch.ops.bert_op.encoder, name.partition(".")[2] or "default")

    def below(
        hidden_states: Tensor, attention_mask: Tensor | None, packed: Any, skip_padding: bool
    ) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = operator(hidden_states, attention_mask, packed, skip_padding=skip_padding)
        return result

    class NoDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            return below(*arguments)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            raise RuntimeError(_INFERENCE_ONLY)

    def run(
        hidden_states: Tensor, attention_mask: Tensor | None, packed: Any, *, skip_padding: bool = False
    ) -> Tensor:
        if torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (hidden_states, attention_mask)
        ):
            result: Tensor = NoDerivative.apply(hidden_states, attention_mask, packed, skip_padding)
            return result
        return below(hidden_states, attention_mask, packed, skip_padding)

    return run
