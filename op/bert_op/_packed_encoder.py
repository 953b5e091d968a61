"""What an encoder of any family needs to run packed: the packed weights, and when to use them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from bert_op._families import Family, config_of
from bert_op._packing import OriginalPath, Sources, as_constants, join, pack, read_sources
from bert_op._policy import Policy, current_policy, followed_precision, policy_of_config, set_in_config
from bert_op._seam import BertOpWarning

_GRADIENTS = (
    "gradients may be asked for (for inference, call it under torch.no_grad() or torch.inference_mode())"
)
_FREED = "the original weights of this encoder were freed by optimize(free_original=True)"

_BUFFER = "packed_weights"
_AUTOCAST_BUFFER = f"{_BUFFER}_autocast"
_STATE = (
    "op_policy",
    "op_fallbacks",
    "op_freed",
    "op_ranges",
    "op_buffers",
    "op_config",
    "_op_sources",
    "_op_packed",
)

_packing = threading.Lock()


def _forget_lock() -> None:
    """In a forked child the thread that held the lock does not exist."""
    global _packing
    _packing = threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)


@dataclass(frozen=True, eq=False)
class Packed:
    """One value, so that threads see the packed weights and what they were made from change together.

    Attributes:
        arenas: by precision. There are two at most: where the precision follows the model, calls under
            autocast can need another than those without.
    """

    sources: Sources
    arenas: Mapping[str, tuple[Tensor, ...]]


class PackedEncoder(nn.Module):
    """Mixin of an encoder class; its `forward` calls `encode` and, where that is None, Hugging Face's own.

    The packed weights are also buffers that are not part of the state dict, so that whatever records a graph
    sees plain tensors of the module: `packed_weights`, and `packed_weights_1` and so on where `keep_layers`
    splits the layers; `packed_weights_autocast` where calls under autocast need another precision.

    Attributes:
        family: where the encoder keeps its weights.
        op_policy: how the operator runs.
        op_fallbacks: the distinct reasons for which the original path ran so far.
        op_freed: whether the original weights were given up for their memory.
        op_ranges: what `config.calibrate_quant_factors` recorded so far.
        op_buffers: the names of the buffers that hold the packed weights, in the order of the layers.
        op_config: what the attributes of the config were that `optimize` wrote, by name.
        packed_weights: the first of these buffers; None until it is needed, and in training.
        packed_weights_autocast: None until a call under autocast needs it.
    """

    family: ClassVar[Family]
    op_policy: Policy
    op_fallbacks: list[str]
    op_freed: bool
    op_ranges: list[float] | None
    op_buffers: tuple[str, ...]
    op_config: dict[str, Any]
    packed_weights: Tensor | None
    packed_weights_autocast: Tensor | None
    _op_sources: Sources | None
    _op_packed: Packed | None

    def attach(self, policy: Policy) -> None:
        """Give a newly built or newly converted encoder its state."""
        self.op_policy = policy
        self.op_fallbacks = []
        self.op_freed = False
        self.op_ranges = None
        self.op_config = {}
        self.op_buffers = (_BUFFER,)
        self.register_buffer(_BUFFER, None, persistent=False)
        self.register_buffer(_AUTOCAST_BUFFER, None, persistent=False)
        self._op_sources = None
        self._op_packed = None
        self.register_load_state_dict_post_hook(_after_loading)

    def detach_op(self) -> None:
        """Turn the encoder back into its family's own class, leaving nothing behind."""
        if self.op_freed:
            raise RuntimeError(f"{_FREED}: it cannot be restored. Load the model again.")
        hooks = self._load_state_dict_post_hooks
        for key in [key for key, hook in hooks.items() if hook is _after_loading]:
            del hooks[key]
        set_in_config(config_of(self), self.op_config)
        for name in (*self.op_buffers, _AUTOCAST_BUFFER):
            delattr(self, name)
        for name in _STATE:
            del self.__dict__[name]
        self.__class__ = self.family.encoder

    def set_policy(self, policy: Policy, *, anew: bool = False) -> None:
        """Run by `policy` from here on; `anew`: pack again even if nothing seems to have changed."""
        if policy.packing != self.op_policy.packing:
            if self.op_freed:
                raise RuntimeError(f"{_FREED}: its precision cannot be changed. Load the model again.")
            self._drop()
        elif anew and not self.op_freed:
            self._drop()
        self.op_policy = policy

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
        # Where another attention implementation is set, the mask can be an object of its own.
        inputs_require_grad = hidden_states.requires_grad or (
            isinstance(attention_mask, Tensor) and attention_mask.requires_grad
        )
        arenas: tuple[Tensor, ...] = ()
        if torch.compiler.is_compiling():
            reason = reason or _prepare_graph(self, torch.is_grad_enabled(), inputs_require_grad)
            names = (_AUTOCAST_BUFFER,) if _differs_under_autocast(self) else self.op_buffers
            arenas = tuple(getattr(self, name) for name in names)
            if reason is not None:
                _note_in_graph(self, reason)
        else:
            try:
                if reason is not None:
                    raise OriginalPath(reason)
                _check_transforms(hidden_states)
                # What is traced in evaluation mode is a graph for inference.
                gradients = torch.is_grad_enabled() and not torch.jit.is_tracing()
                arenas = self.ready(gradients=gradients, inputs_require_grad=inputs_require_grad)
                if torch.jit.is_tracing() and _differs_under_autocast(self):
                    arenas = as_constants(arenas)
            except OriginalPath as decision:
                reason = str(decision)
                self.note(reason)
        if reason is not None:
            return None
        if hidden_states.dtype != torch.float32:
            hidden_states = _as_autocast_adds_them(hidden_states)
        return _call_operator(hidden_states, attention_mask, arenas, self.op_policy.skip_padding)

    def config_reason(self) -> str | None:
        """What the config asks for that the operator does not do, or None."""
        raise AssertionError("each drop-in says this for its family")

    def check(self, *, gradients: bool, inputs_require_grad: bool = False) -> Sources:
        """The layers to pack, or to have packed.

        Args:
            gradients: whether gradients are recorded, for what requires them.
        Raises:
            OriginalPath: the state of the encoder does not allow the operator.
        """
        if self.training:
            raise OriginalPath("the model is in training mode (for inference, call model.eval())")
        if reason := self.config_reason():
            raise OriginalPath(reason)
        sources = self._op_sources
        if sources is None or not sources.same_modules():
            sources = self._op_sources = read_sources(self, self.family, freed=self.op_freed)
        if sources.any_training():
            raise OriginalPath("a module inside the encoder is in training mode")
        if gradients and (inputs_require_grad or sources.any_requires_grad()):
            raise OriginalPath(_GRADIENTS)
        if reason := sources.interception():
            raise OriginalPath(reason)
        return sources

    def ready(self, *, gradients: bool, inputs_require_grad: bool = False) -> tuple[Tensor, ...]:
        """The packed weights, made anew if the parameters changed since.

        Raises:
            OriginalPath: see `check`.
            RuntimeError: a weight is not finite or has a wrong shape.
        """
        sources = self.check(gradients=gradients, inputs_require_grad=inputs_require_grad)
        packed = self._op_packed
        if packed is not None and packed.sources is sources and sources.same_weights():
            arenas = packed.arenas.get(self.precision_now(sources))
            if arenas is not None:
                return arenas
        with _packing:
            packed = self._op_packed  # another thread may have packed while this one waited
            if packed is None or not (packed.sources.same_modules() and packed.sources.same_weights()):
                packed = self._pack(None)
            elif self.precision_now(packed.sources) not in packed.arenas:
                packed = self._pack(packed)
            self._op_sources = packed.sources
            return packed.arenas[self.precision_now(packed.sources)]

    def precision_now(self, sources: Sources) -> str:
        """That of a call at this place: the chosen one, or that of the model and autocast."""
        return self.op_policy.precision or followed_precision(sources.dtypes, _autocast_dtype())

    def precision_of_model(self, sources: Sources) -> str:
        """That of a call without autocast."""
        return self.op_policy.precision or followed_precision(sources.dtypes, None)

    def packings(self) -> Mapping[str, tuple[Tensor, ...]]:
        """What is packed at present, by precision."""
        return {} if self._op_packed is None else self._op_packed.arenas

    def pack_early(self) -> None:
        """Pack now if possible, so that a graph recorded before the first forward finds packed weights.

        What is wrong with the weights, if anything, is an error of the forward that needs them.
        """
        if not self.training:
            try:
                self.ready(gradients=False)
            except (OriginalPath, RuntimeError):
                if not self.op_freed:
                    self._drop()

    def free_original(self) -> None:
        """Give up the data of the original weights; shapes, dtypes and names stay. Needs packed weights."""
        for layer in self.get_submodule(self.family.layers):
            for path in self.family.weighted:
                module = layer.get_submodule(path)
                for name, weight in list(module._parameters.items()):
                    module._parameters[name] = nn.Parameter(weight.detach().to("meta"), requires_grad=False)
        self.op_freed = True
        self._adopt_freed()

    def note(self, reason: str) -> None:
        """Record, and say once, that the original path runs. Raises RuntimeError where it cannot."""
        if self.op_freed:
            raise RuntimeError(f"{_FREED}, but its original path has to run: {reason}. Load the model again.")
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
        if not self.op_freed:
            self._drop()
        super()._apply(fn, recurse)
        if self.op_freed:
            self._adopt_freed()
        else:
            self.pack_early()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.op_freed:
            raise RuntimeError(f"{_FREED}: it has no state dict to save. Load the model again to save it.")
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.op_freed:
            raise RuntimeError(f"{_FREED}: nothing can be loaded into it. Load the model again.")
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """The state to copy or pickle: the other side packs again, unless it cannot."""
        state = {**self.__dict__, "_op_sources": None, "_op_packed": None}
        if not self.op_freed:
            dropped = dict.fromkeys((*self.op_buffers, _AUTOCAST_BUFFER))
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

    def _pack(self, earlier: Packed | None) -> Packed:
        """Pack what a call now needs, beside what is `earlier` packed from weights that are the same."""
        if self.op_freed:
            raise RuntimeError(f"{_FREED}, but its parameters were changed since. Load the model again.")
        sources = earlier.sources if earlier else read_sources(self, self.family)
        precision = self.precision_now(sources)
        arenas = pack(sources, replace(self.op_policy, precision=precision))
        packed = Packed(sources, {**(earlier.arenas if earlier else {}), precision: arenas})
        self._op_packed = packed
        self._show(packed)
        return packed

    def _adopt_freed(self) -> None:
        self._op_sources = read_sources(self, self.family, freed=True)
        arenas = tuple(getattr(self, name) for name in self.op_buffers)
        self._op_packed = Packed(self._op_sources, {self.precision_now(self._op_sources): arenas})

    def _drop(self) -> None:
        self._op_sources = self._op_packed = None
        self._show(None)

    def _show(self, packed: Packed | None) -> None:
        """Let the buffers be what is packed."""
        arenas: tuple[Tensor | None, ...] = (None,)
        under_autocast = None
        if packed is not None:
            precision = self.precision_of_model(packed.sources)
            arenas = packed.arenas.get(precision, arenas)
            (under_autocast,) = next((a for p, a in packed.arenas.items() if p != precision), (None,))
        self.register_buffer(_AUTOCAST_BUFFER, under_autocast, persistent=False)
        names = (_BUFFER, *(f"{_BUFFER}_{index}" for index in range(1, len(arenas))))
        for name in self.op_buffers[len(names) :]:
            delattr(self, name)
        for name, arena in zip(names, arenas, strict=True):
            self.register_buffer(name, arena, persistent=False)
        self.op_buffers = names


def _call_operator(
    hidden_states: Tensor, attention_mask: Tensor | None, arenas: tuple[Tensor, ...], skip_padding: bool
) -> Tensor:
    if (
        torch.jit.is_tracing()
    ):  # TorchScript would keep a list as a constant, which a call may not take tensors from
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


def _after_loading(encoder: PackedEncoder, incompatible_keys: object) -> None:
    encoder.pack_early()


@torch.compiler.assume_constant_result
def _prepare_graph(encoder: PackedEncoder, gradients: bool, inputs_require_grad: bool) -> str | None:
    """Why a graph that is being recorded takes the original path; if None, the weights are packed."""
    try:
        if not torch.compiler.is_exporting():
            encoder.ready(gradients=gradients, inputs_require_grad=inputs_require_grad)
            return None
        # Export shows the module with placeholders in place of its tensors, so packing has to come before it.
        packed = encoder._op_packed
        if encoder.training or packed is None or not packed.sources.same_weights():
            raise OriginalPath("it was exported in training mode or before it was packed (call eval() last)")
        if reason := packed.sources.interception():
            raise OriginalPath(reason)
        if encoder.precision_now(packed.sources) not in packed.arenas:
            with _packing:
                encoder._pack(packed)
    except OriginalPath as decision:
        return str(decision)
    return None


@torch.compiler.assume_constant_result
def _note_in_graph(encoder: PackedEncoder, reason: str) -> None:
    encoder.note(reason)


@torch.compiler.assume_constant_result
def _differs_under_autocast(encoder: PackedEncoder) -> bool:
    """Whether a graph that is being recorded runs in another precision than it would without autocast."""
    packed = encoder._op_packed
    if packed is None:
        return False
    return encoder.precision_now(packed.sources) != encoder.precision_of_model(packed.sources)


def _autocast_dtype() -> torch.dtype | None:
    """The dtype in which autocast has the CPU multiply in this thread; None where it is off."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _as_autocast_adds_them(hidden_states: Tensor) -> Tensor:
    """Under autocast Hugging Face adds the products to the hidden states in the wider dtype of the two, and
    that is the dtype of its result."""
    autocast = _autocast_dtype()
    if autocast is None:
        return hidden_states
    return hidden_states.to(torch.promote_types(hidden_states.dtype, autocast))


def _check_transforms(hidden_states: Tensor) -> None:
    """Raises OriginalPath where something transforms or records what the operator would hide from it."""
    if torch._C._functorch.is_functorch_wrapped_tensor(hidden_states) or forward_ad._current_level >= 0:
        raise OriginalPath("a function transform or forward-mode differentiation is active")
    if torch.onnx.is_in_onnx_export():
        raise OriginalPath("ONNX has no such operator")
