"""The packed weights of an encoder: kept beside its own, and true to them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from bert_op._calls import autocast_dtype
from bert_op._causes import lone_weights, warning_of
from bert_op._code import code_of
from bert_op._families import Family, config_of
from bert_op._layer import choose, chosen
from bert_op._packing import OriginalPath, Sources, pack, packing_apart, read_sources
from bert_op._policy import SAVED, Policy, followed_precision, save_to_config, set_in_config
from bert_op._readers import Place, Rows
from bert_op._seam import BertOpWarning

_GRADIENTS = (
    "gradients may be asked for (for inference, call it under torch.no_grad() or torch.inference_mode())"
)
FREED = "the original weights of this encoder were freed by optimize(free_original=True)"

_BUFFER = "packed_weights"
_AUTOCAST_BUFFER = f"{_BUFFER}_autocast"
_STATE = (
    "op_policy",
    "op_fallbacks",
    "op_guard",
    "op_warned",
    "op_freed",
    "op_ranges",
    "op_buffers",
    "op_config",
    "op_rows",
    "op_reader",
    "op_autocast_buffers",
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


class PackedWeights(nn.Module):
    """Mixin of an encoder class that keeps the packed weights beside its own.

    They are also buffers that are not part of the state dict, so that whatever records a graph
    sees plain tensors of the module: `packed_weights`, and `packed_weights_1` and so on where precision or
    sizes split the layers; `packed_weights_autocast` and so on where calls under autocast need another
    precision.

    Attributes:
        family: where the encoder keeps its weights.
        op_policy: how the operator runs.
        op_fallbacks: the distinct reasons for which the original path ran so far.
        op_guard: what `optimize` kept unquantized for a target, see `bert_op._guard.Guarded`.
        op_warned: what was last said of single weights, if anything.
        op_freed: whether the original weights were given up for their memory.
        op_ranges: what `config.calibrate_quant_factors` recorded so far, by layer.
        op_buffers, op_autocast_buffers: the names of the buffers that hold the packed weights, in the order
            of the layers.
        op_config: what the attributes of the config were that `optimize` wrote, by name.
        op_rows, op_reader: what is read of the result by all that comes after, and inside of which function,
            see `bert_op._readers`.
        packed_weights: the first of these buffers; None until it is needed, and in training.
        packed_weights_autocast: None until a call under autocast needs it.
    """

    family: ClassVar[Family]
    op_policy: Policy
    op_fallbacks: list[str]
    op_guard: dict[str, Any] | None
    op_warned: str | None
    op_freed: bool
    op_ranges: list[tuple[nn.Module, list[float]]]
    op_buffers: tuple[str, ...]
    op_autocast_buffers: tuple[str, ...]
    op_config: dict[str, Any]
    op_rows: Rows
    op_reader: Place | None
    packed_weights: Tensor | None
    packed_weights_autocast: Tensor | None
    _op_packed: Packed | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "family" in vars(cls):
            code_of(cls.family)  # now, when Hugging Face's module was just imported

    def attach(self, policy: Policy) -> None:
        """Give a newly built or newly converted encoder its state."""
        self.op_policy = policy
        self.op_fallbacks = []
        self.op_guard = None
        self.op_warned = None
        self.op_freed = False
        self.op_ranges = []
        self.op_config = {}
        self.op_rows, self.op_reader = "all", None
        self.op_buffers = self.op_autocast_buffers = ()
        self._drop()
        choose(self.op_layers, policy)
        self.register_load_state_dict_post_hook(_after_loading)

    def detach_op(self) -> None:
        """Turn the encoder back into its family's own class, leaving nothing behind."""
        if self.op_freed:
            raise RuntimeError(f"{FREED}: it cannot be restored. Load the model again.")
        hooks = self._load_state_dict_post_hooks
        for key in [key for key, hook in hooks.items() if hook is _after_loading]:
            del hooks[key]
        if self.op_config:
            set_in_config(config_of(self), self.op_config)
        choose(self.op_layers, Policy())
        for name in (*self.op_buffers, *self.op_autocast_buffers):
            delattr(self, name)
        for name in _STATE:
            del self.__dict__[name]
        self.__class__ = self.family.encoder

    def set_policy(self, policy: Policy, *, anew: bool = False) -> None:
        """Run by `policy` from here on; `anew`: pack again even if nothing seems to have changed."""
        if policy.packing != self.op_policy.packing:
            if self.op_freed:
                raise RuntimeError(f"{FREED}: its precision cannot be changed. Load the model again.")
            self._drop()
        elif anew and not self.op_freed:
            self._drop()
        if not self.op_freed:
            choose(self.op_layers, policy)
        self.op_policy = policy

    @property
    def op_layers(self) -> list[nn.Module]:
        """The layers there are now."""
        return list(self.get_submodule(self.family.layers)._modules.values())

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
        packed = self._op_packed
        if packed is not None and packed.sources.same_modules():
            sources = packed.sources
        elif reason := self.config_reason():
            raise OriginalPath(reason)
        else:
            sources = read_sources(self, self.family, freed=self.op_freed)
        if gradients and (inputs_require_grad or sources.any_requires_grad()):
            raise OriginalPath(_GRADIENTS)
        return sources

    def ready(self, *, gradients: bool, inputs_require_grad: bool = False) -> tuple[Tensor, ...]:
        """The packed weights, made anew if the parameters changed since.

        Raises:
            OriginalPath: see `check`.
            RuntimeError: a weight is not finite.
        """
        sources = self.check(gradients=gradients, inputs_require_grad=inputs_require_grad)
        packed = self._op_packed
        if packed is not None and packed.sources is sources and sources.same_weights():
            arenas = packed.arenas.get(self.precision_now(sources))
            return self.pack_also(packed) if arenas is None else arenas
        with _packing:
            packed = self._op_packed  # another thread may have packed while this one waited
            sources = read_sources(self, self.family, freed=self.op_freed)
            if packed is None or not packed.sources.packs_like(sources):
                return self._pack(Packed(sources, {}))
            self._op_packed = Packed(replace(sources, tensors=packed.sources.tensors), packed.arenas)
        return self.pack_also(self._op_packed)

    def pack_also(self, packed: Packed) -> tuple[Tensor, ...]:
        """What a call at this place needs, beside what is `packed` from the same weights."""
        with _packing:
            known = self._op_packed
            packed = known if known is not None and known.sources is packed.sources else packed
            arenas = packed.arenas.get(self.precision_now(packed.sources))
            return self._pack(packed) if arenas is None else arenas

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
        for layer in self.op_layers:
            for path in self.family.weighted:
                module = layer.get_submodule(path)
                for name, weight in list(module._parameters.items()):
                    module._parameters[name] = nn.Parameter(weight.detach().to("meta"), requires_grad=False)
        self.op_freed = True
        self._adopt_freed()

    def precision_now(self, sources: Sources) -> str:
        """That of a call at this place: the chosen one, or that of the model and autocast."""
        return self.op_policy.precision or followed_precision(sources.dtypes, autocast_dtype())

    def precision_of_model(self, sources: Sources) -> str:
        """That of a call without autocast."""
        return self.op_policy.precision or followed_precision(sources.dtypes, None)

    def packings(self) -> Mapping[str, tuple[Tensor, ...]]:
        """What is packed at present, by precision."""
        return {} if self._op_packed is None else self._op_packed.arenas

    def renumber(self) -> None:
        """Bring what policy and config say by the numbers of layers in line with the layers there are."""
        policy, config = chosen(self.op_layers, self.op_policy), config_of(self)
        if policy != self.op_policy:
            self.op_policy = policy
            if policy.precision is not None and getattr(config, SAVED, None):
                save_to_config(config, policy, len(self.op_layers))

    def _pack(self, earlier: Packed) -> tuple[Tensor, ...]:
        """What a call now needs, packed and kept beside what is packed `earlier`."""
        if self.op_freed:
            raise RuntimeError(f"{FREED}, but its parameters were changed since. Load the model again.")
        precision = self.precision_now(earlier.sources)
        arenas = pack(earlier.sources, replace(self.op_policy, precision=precision))
        if precision.endswith("_qint8") and not packing_apart():
            self._warn_of_lone_weights(earlier.sources)
        self._op_packed = Packed(earlier.sources, {**earlier.arenas, precision: arenas})
        self._show(self._op_packed)
        self.renumber()
        return arenas

    def _warn_of_lone_weights(self, sources: Sources) -> None:
        """Once for an encoder, unless what is kept or the weights changed since."""
        found = []
        for index, layer in enumerate(sources.layers):
            lone = [weight for weight in lone_weights(layer) if weight.linear not in layer.kept]
            found.append((index, lone))
        said = warning_of(found)
        if said is not None and said != self.op_warned:
            warnings.warn(said, BertOpWarning, stacklevel=2)
        self.op_warned = said

    def _adopt_freed(self) -> None:
        sources = read_sources(self, self.family, freed=True)
        arenas = tuple(getattr(self, name) for name in self.op_buffers)
        self._op_packed = Packed(sources, {self.precision_now(sources): arenas})

    def _drop(self) -> None:
        self._op_packed = None
        self._show(None)

    def _show(self, packed: Packed | None) -> None:
        """Let the buffers be what is packed."""
        arenas: tuple[Tensor | None, ...] = (None,)
        under_autocast = arenas
        if packed is not None:
            precision = self.precision_of_model(packed.sources)
            arenas = packed.arenas.get(precision, arenas)
            under_autocast = next((a for p, a in packed.arenas.items() if p != precision), under_autocast)
        self.op_buffers = self._show_as(_BUFFER, self.op_buffers, arenas)
        self.op_autocast_buffers = self._show_as(_AUTOCAST_BUFFER, self.op_autocast_buffers, under_autocast)

    def _show_as(
        self, first: str, before: tuple[str, ...], arenas: tuple[Tensor | None, ...]
    ) -> tuple[str, ...]:
        names = (first, *(f"{first}_{index}" for index in range(1, len(arenas))))
        for name in before[len(names) :]:
            delattr(self, name)
        for name, arena in zip(names, arenas, strict=True):
            self.register_buffer(name, arena, persistent=False)
        return names


def _after_loading(encoder: PackedWeights, incompatible_keys: object) -> None:
    encoder.pack_early()
