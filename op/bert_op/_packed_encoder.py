"""What an encoder of any family does with its packed weights: when to call the operator, and as a module."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from bert_op._calls import (
    as_autocast_adds_them,
    call_operator,
    differs_under_autocast,
    note_in_graph,
    prepare_graph,
)
from bert_op._families import config_of
from bert_op._layer import look_at
from bert_op._masks import aligned, first_rows_attended, mask_reason
from bert_op._modes import transform
from bert_op._packed_weights import FREED, Packed, PackedWeights
from bert_op._packing import OriginalPath, as_constants
from bert_op._policy import current_policy, policy_of_config
from bert_op._readers import is_running
from bert_op._seam import BertOpWarning

__all__ = ["BertOpWarning", "Packed", "PackedEncoder"]


class PackedEncoder(PackedWeights):
    """Mixin of an encoder class; its `forward` calls `encode` and, where that is None, Hugging Face's own."""

    def encode(
        self, hidden_states: Tensor, attention_mask: Tensor | None, reason: str | None
    ) -> Tensor | None:
        """The operator's result (B, S, H), or None where the original path has to run, which is on record.

        Args:
            reason: why the arguments of this call need the original path, if they do.
        Raises:
            RuntimeError: the mask does not fit, a weight is not finite, or the original path is needed but
                freed.
        """
        attention_mask = aligned(attention_mask, hidden_states)
        # Where another attention implementation is set, the mask can be an object of its own.
        inputs_require_grad = hidden_states.requires_grad or (
            isinstance(attention_mask, Tensor) and attention_mask.requires_grad
        )
        arenas: tuple[Tensor, ...] = ()
        recorded = torch.compiler.is_compiling()
        if recorded:
            look_at(self.op_layers)
            reason = reason or prepare_graph(self, torch.is_grad_enabled(), inputs_require_grad)
            reason = reason or mask_reason(attention_mask, hidden_states, self._eager)
            names = self.op_autocast_buffers if differs_under_autocast(self) else self.op_buffers
            arenas = tuple(getattr(self, name) for name in names)
            if reason is not None:
                note_in_graph(self, reason)
        else:
            recorded = torch.jit.is_tracing()
            try:
                if reason := reason or transform(hidden_states):
                    raise OriginalPath(reason)
                # What is traced in evaluation mode is a graph for inference.
                gradients = torch.is_grad_enabled() and not recorded
                arenas = self.ready(gradients=gradients, inputs_require_grad=inputs_require_grad)
                if reason := mask_reason(attention_mask, hidden_states, self._eager):
                    raise OriginalPath(reason)
                if recorded and differs_under_autocast(self):
                    arenas = as_constants(arenas)
            except OriginalPath as decision:
                reason = str(decision)
                self.note(reason)
        if reason is not None:
            return None
        skip_padding = self.op_policy.skip_padding
        if skip_padding == "auto":
            skip_padding = self._nobody_reads_padding(attention_mask, recorded)
        if hidden_states.dtype != torch.float32:
            hidden_states = as_autocast_adds_them(hidden_states)
        return call_operator(hidden_states, attention_mask, arenas, skip_padding)

    def _nobody_reads_padding(self, attention_mask: Tensor | None, recorded: bool) -> bool:
        if self.op_rows == "all" or not (torch.compiler.is_compiling() or is_running(self.op_reader)):
            return False
        # What a graph will be given is not known when it is recorded.
        return self.op_rows == "attended" or (not recorded and first_rows_attended(attention_mask))

    def note(self, reason: str) -> None:
        """Record, and say once, that the original path runs. Raises RuntimeError where it cannot."""
        if self.op_freed:
            raise RuntimeError(f"{FREED}, but its original path has to run: {reason}. Load the model again.")
        if reason not in self.op_fallbacks:
            self.op_fallbacks.append(reason)
            warnings.warn(
                f"bert_op: the original path of {type(self).__name__} runs, because {reason}.",
                BertOpWarning,
                stacklevel=2,
            )

    def train(self, mode: bool = True) -> PackedEncoder:
        super().train(mode)
        if not mode:
            self.pack_early()
        elif not self.op_freed:
            self._drop()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> PackedEncoder:
        if self.op_freed:
            return self._apply_freed(fn)
        packed = self._op_packed
        self._show(None)  # what is packed is not to be moved, but made again where that is needed
        super()._apply(fn, recurse)
        if packed is not None and self._op_packed is packed:
            self._show(packed)
        self.pack_early()
        return self

    def _apply_freed(self, fn: Any) -> PackedEncoder:
        """Without the original weights, only what leaves the packed ones where they are, on the CPU."""
        moved = fn(torch.empty(0))
        if moved.device.type != "cpu":
            raise RuntimeError(
                f"{FREED}: what is packed runs on the CPU only, so it cannot be moved to {moved.device}. "
                "Load the model again."
            )
        for layer in self.op_layers:
            for parameter in layer.parameters():
                parameter.data = parameter.data.to(fn(torch.empty(0, dtype=parameter.dtype)).dtype)
        kept = self.get_submodule(self.family.layers)
        for child in self.children():
            if child is not kept:
                child._apply(fn)
        self._adopt_freed()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.op_freed:
            raise RuntimeError(f"{FREED}: it has no state dict to save. Load the model again to save it.")
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.op_freed:
            raise RuntimeError(f"{FREED}: nothing can be loaded into it. Load the model again.")
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """The state to copy or pickle: the other side packs again, unless it cannot."""
        state = {**self.__dict__, "_op_packed": None}
        if not self.op_freed:
            dropped = dict.fromkeys((*self.op_buffers, *self.op_autocast_buffers))
            state["_buffers"] = {**self._buffers, **dropped}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "op_policy" not in state:  # pickled without bert_op: the name of its class now leads here
            self.attach(policy_of_config(config_of(self), current_policy()))
        if self.op_freed:
            self._adopt_freed()
        else:
            self.pack_early()

    def _eager(self) -> bool:
        """Whether masks are added to the scores, whatever they are."""
        return getattr(config_of(self), "_attn_implementation", None) in (None, "eager")
