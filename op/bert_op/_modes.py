"""What torch may have put around a call: transforms, modes and recorders that the operator would evade."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

NO_ONNX = "ONNX has no such operator"

# Attribute of a dispatch mode that wants to see the operator itself, instead of what it stands for.
_SEES_OPERATOR = "bert_op_sees_operator"


def transform(hidden_states: Tensor) -> str | None:
    """What sees or changes the operations inside the encoder in this call, or None."""
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "a function transform or forward-mode differentiation is active"
    if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
        return NO_ONNX
    if torch._C._len_torch_function_stack():
        for mode in _get_current_function_mode_stack():
            if not isinstance(mode, DeviceContext):
                return f"{type(mode).__name__} sees all functions of torch"
    if torch._C._len_torch_dispatch_stack():
        for mode in _get_current_dispatch_mode_stack():
            if not (mode.is_infra_mode() or hasattr(mode, _SEES_OPERATOR)):
                return f"{type(mode).__name__} sees all operations of torch"
    if type(hidden_states) not in (Tensor, nn.Parameter, FakeTensor):
        return f"the hidden states are of type {type(hidden_states).__name__}"
    return None
