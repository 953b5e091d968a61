"""What a model calls the operator with: the calls of one forward, by encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bert_op._calibrate import call_model
from bert_op._packed_encoder import PackedEncoder


@dataclass(frozen=True, eq=False)
class ObservedCall:
    """The first call of one encoder.

    Attributes:
        encoder: whose it is.
        precision: in which its weights were packed.
        hidden_states: (batch, seq_len, hidden_size).
        attention_mask: as the operator takes it, or None.
        packed: one tensor for each run of layers.
        skip_padding: whether padding was left out.
    """

    encoder: PackedEncoder
    precision: str
    hidden_states: Tensor
    attention_mask: Tensor | None
    packed: tuple[Tensor, ...]
    skip_padding: bool


class _Calls(TorchDispatchMode):
    """Notes what the operator is called with, the first call by packed weights."""

    bert_op_sees_operator = True

    def __init__(self) -> None:
        super().__init__()
        self.of_arena: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.bert_op.encoder.default:
            self.of_arena.setdefault(args[2][0].data_ptr(), (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def observe(model: nn.Module, inputs: Any) -> dict[str, ObservedCall]:
    """Run `model` on `inputs`.

    Returns:
        one value for each encoder that ran by the operator, by the encoder's name.
    Raises:
        ValueError: no encoder ran by the operator.
        TypeError: the inputs are no batch.
    """
    with torch.no_grad(), _Calls() as calls:
        call_model(model, inputs)
    observed = {}
    for name, encoder in model.named_modules():
        if isinstance(encoder, PackedEncoder):
            for precision, arenas in encoder.packings().items():
                seen = calls.of_arena.get(arenas[0].data_ptr())
                if seen is not None:
                    (hidden_states, attention_mask, _), options = seen
                    skip_padding = bool(options.get("skip_padding", False))
                    observed[name] = ObservedCall(
                        encoder, precision, hidden_states, attention_mask, arenas, skip_padding
                    )
    if not observed:
        raise ValueError(
            "no encoder of the model ran by the operator on these inputs: bert_op.explain(model) says why."
        )
    return observed
