"""How the operator is called: alone, in a graph that is being recorded, and under autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bert_op._modes import NO_ONNX
from bert_op._packing import OriginalPath, check_structure, join

if TYPE_CHECKING:
    from bert_op._packed_encoder import PackedEncoder


def call_operator(
    hidden_states: Tensor, attention_mask: Tensor | None, arenas: tuple[Tensor, ...], skip_padding: bool
) -> Tensor:
    """The operator's result, called in the way that whatever records this call can record."""
    if torch.jit.is_tracing():
        # TorchScript would keep a list as a constant, which a call may not take tensors from.
        return torch.ops.bert_op.encoder.joined(
            hidden_states, attention_mask, join(arenas), skip_padding=skip_padding
        )
    if torch.compiler.is_compiling():
        return torch.ops.bert_op.encoder(
            hidden_states, attention_mask, list(arenas), skip_padding=skip_padding
        )
    # That no gradient is asked for has been checked: the operator need not be asked again.
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.bert_op.encoder.default(
            hidden_states, attention_mask, list(arenas), skip_padding=skip_padding
        )


@torch.compiler.assume_constant_result
def prepare_graph(encoder: PackedEncoder, gradients: bool, inputs_require_grad: bool) -> str | None:
    """Why a graph that is being recorded takes the original path; if None, the weights are packed."""
    try:
        if not torch.compiler.is_exporting():
            encoder.ready(gradients=gradients, inputs_require_grad=inputs_require_grad)
            return None
        # Export shows the module with placeholders in place of its tensors, so packing has to come before it.
        packed = encoder._op_packed
        if torch.onnx.is_in_onnx_export():
            raise OriginalPath(NO_ONNX)
        if encoder.training or packed is None or not packed.sources.same_weights():
            raise OriginalPath("it was exported in training mode or before it was packed (call eval() last)")
        check_structure(encoder, encoder.family, packed.sources)
        if encoder.precision_now(packed.sources) not in packed.arenas:
            encoder.pack_also(packed)
    except OriginalPath as decision:
        return str(decision)
    return None


@torch.compiler.assume_constant_result
def note_in_graph(encoder: PackedEncoder, reason: str) -> None:
    encoder.note(reason)


@torch.compiler.assume_constant_result
def differs_under_autocast(encoder: PackedEncoder) -> bool:
    """Whether a graph that is being recorded runs in another precision than it would without autocast."""
    packed = encoder._op_packed
    if packed is None:
        return False
    return encoder.precision_now(packed.sources) != encoder.precision_of_model(packed.sources)


def autocast_dtype() -> torch.dtype | None:
    """The dtype in which autocast has the CPU multiply in this thread; None where it is off."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def as_autocast_adds_them(hidden_states: Tensor) -> Tensor:
    """Under autocast Hugging Face adds the products to the hidden states in the wider dtype of the two, and
    that is the dtype of its result."""
    autocast = autocast_dtype()
    if autocast is None:
        return hidden_states
    return hidden_states.to(torch.promote_types(hidden_states.dtype, autocast))
