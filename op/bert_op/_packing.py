"""Packed weights: what they were made from, whether they are still true, and making them.

`Sources` is a snapshot of an encoder's layers. Asking it whether the layers are still the ones that were
packed, and still do nothing but what a layer does, happens before every forward: so it walks flat tuples,
not the module tree.
"""

from __future__ import annotations

import ctypes
import itertools
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.activations import ACT2FN

from bert_op._families import ACTIVATIONS, Family, config_of, unsupported_sizes
from bert_op._policy import FACTORS_PER_LAYER, Policy
from bert_op._recording import is_recording_hook, replaced_forward
from bert_op._seam import PRUNED

_WEIGHTS_PER_LAYER = 16
_SAMPLES = 8
_BITS: dict[torch.dtype, type[ctypes._SimpleCData[int]]] = {
    torch.bfloat16: ctypes.c_int16,
    torch.float16: ctypes.c_int16,
    torch.float32: ctypes.c_int32,
    torch.float64: ctypes.c_int64,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class OriginalPath(Exception):
    """Hugging Face's own code has to run; the message is the reason, a clause without a full stop."""


@dataclass(frozen=True, eq=False)
class Sources:
    """The layers of one encoder as they were when they were read.

    Attributes:
        weights: 16 tensors a layer, in the order of `prepack`.
        addresses, versions: of each weight; writing to a weight in place raises its version counter.
        samples: views of a few elements of each weight, and `sampled` what was in them: writing through
            `weight.data` raises no counter, so this is how such a write is found, unless it misses them all.
        tables, names, values: for each child and weight, the dict that holds it, its key and the object found
            there.
        hooks: the hook dicts of all modules; torch keeps these dicts and changes their content.
        attributes: the `__dict__` of all modules, and `moded` of those that compute otherwise in training.
        layers: the dict that holds the layers.
        dtypes: of the matrices, which decide the precision where nobody chose one.
        num_layers, num_heads, hidden_act, layer_norm_eps: the sizes and kind of all layers.
    """

    weights: tuple[Tensor, ...]
    addresses: tuple[int, ...]
    versions: tuple[int, ...]
    samples: tuple[memoryview, ...]
    sampled: tuple[bytes, ...]
    tables: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    hooks: tuple[dict[int, Any], ...]
    attributes: tuple[dict[str, Any], ...]
    moded: tuple[dict[str, Any], ...]
    layers: dict[str, Any]
    dtypes: frozenset[torch.dtype]
    num_layers: int
    num_heads: int
    hidden_act: str
    layer_norm_eps: float

    def same_modules(self) -> bool:
        """Whether the encoder still consists of these very modules and parameters."""
        return len(self.layers) == self.num_layers and all(
            map(operator.is_, map(dict.get, self.tables, self.names), self.values)
        )

    def same_weights(self) -> bool:
        """Whether the weights are where they were and hold the same, as far as torch and the samples tell."""
        return (  # in this order: samples may be read only at the same address
            _addresses(self.weights) == self.addresses
            and _versions(self.weights) == self.versions
            and _read(self.samples) == self.sampled
        )

    def any_training(self) -> bool:
        """Whether any module to which it matters is in training mode, be it a single dropout."""
        return any(map(operator.itemgetter("training"), self.moded))

    def any_requires_grad(self) -> bool:
        return any(map(operator.attrgetter("requires_grad"), self.weights))

    def interception(self) -> str | None:
        """What wants to see or change values between the layers, or None."""
        if nn.modules.module._has_any_global_hook():
            return "hooks are registered on all modules"
        if any(self.hooks):
            functions = itertools.chain.from_iterable(hooks.values() for hooks in self.hooks)
            # Once asked for hidden states or attentions, a model keeps Hugging Face's hooks; they are idle
            # until asked again, which `recording` tells.
            if not all(map(is_recording_hook, functions)):
                return "hooks are registered on modules inside the encoder"
        if any(map(operator.contains, self.attributes, itertools.repeat("forward"))):
            return replaced_forward(self.attributes)
        return None


def read_sources(encoder: nn.Module, family: Family, *, freed: bool = False) -> Sources:
    """Snapshot the layers of `encoder`, whose weights may be without data if they were `freed`.

    Raises:
        OriginalPath: the operator does not cover the encoder's sizes, activation, modules or tensors.
    """
    layers = list(encoder.get_submodule(family.layers))
    if not layers:
        raise OriginalPath("the encoder has no layers")
    config = config_of(encoder)
    if reason := unsupported_sizes(config, family):
        raise OriginalPath(reason)
    hidden_act = getattr(config, family.config_names[0])
    _check_modules(layers, family, hidden_act)
    weighted = [layer.get_submodule(path) for layer in layers for path in family.weighted]
    modules = [module for layer in layers for module in layer.modules()]
    places = [(encoder._modules, family.layers)]
    places += [
        (module._modules, name)
        for module in [encoder.get_submodule(family.layers), *modules]
        for name in module._modules
    ]
    places += [(module._parameters, name) for module in weighted for name in ("weight", "bias")]
    weights = tuple(parameters.get(name) for parameters, name in places[-2 * len(weighted) :])
    for weight in weights:
        _check_weight(weight, freed)
    samples = () if freed else _samples(weights)
    eps = {module.eps for module in weighted if isinstance(module, nn.LayerNorm)}
    if len(eps) != 1:
        raise OriginalPath(f"the LayerNorms differ in epsilon: {sorted(eps)}")
    return Sources(
        weights=weights,
        addresses=_addresses(weights),
        versions=_versions(weights),
        samples=samples,
        sampled=_read(samples),
        tables=tuple(table for table, _ in places),
        names=tuple(name for _, name in places),
        values=tuple(table[name] for table, name in places),
        hooks=tuple(getattr(module, hooks) for module in modules for hooks in _HOOKS),
        attributes=tuple(module.__dict__ for module in modules),
        moded=tuple(module.__dict__ for module in modules if type(module) not in (nn.Linear, nn.LayerNorm)),
        layers=encoder.get_submodule(family.layers)._modules,
        dtypes=frozenset(weight.dtype for weight in weights if weight.dim() == 2),
        num_layers=len(layers),
        num_heads=config.num_attention_heads,
        hidden_act=ACTIVATIONS[hidden_act],
        layer_norm_eps=eps.pop(),
    )


def pack(sources: Sources, policy: Policy) -> tuple[Tensor, ...]:
    """The weights of `sources` in the operator's layout, as tensors that any mode may use later.

    Returns:
        One 1-D uint8 tensor for each run of consecutive layers of the same precision.
    Raises:
        RuntimeError: a weight is not finite, or has another shape than its layer needs.
    """
    runs = itertools.groupby(range(sources.num_layers), policy.precision_of)
    return tuple(
        pack_layers(sources, list(layers), precision, policy.quantization_factors)
        for precision, layers in runs
    )


def pack_layers(
    sources: Sources, layers: Sequence[int], precision: str, factors: Sequence[float] = ()
) -> Tensor:
    """Consecutive layers in one precision; `factors` are those of all layers of `sources`, or none."""

    def of_layers(values: Sequence[Any], each: int) -> list[Any]:
        return list(values[each * layers[0] : each * (layers[-1] + 1)])

    quantized = precision.endswith("_qint8")
    with _unobserved(), torch.inference_mode(False), torch.no_grad():
        (arena,) = torch.ops.bert_op.prepack(
            [weight.detach() for weight in of_layers(sources.weights, _WEIGHTS_PER_LAYER)],
            num_heads=sources.num_heads,
            hidden_act=sources.hidden_act,
            layer_norm_eps=sources.layer_norm_eps,
            precision=precision,
            quantization_factors=of_layers(factors, FACTORS_PER_LAYER) if quantized else [],
        )
    return arena


def join(arenas: Sequence[Tensor]) -> Tensor:
    """All runs of layers in one tensor, for `encoder.joined`: a copy, unless there is one run only."""
    if len(arenas) == 1:
        return arenas[0]
    with _unobserved(), torch.inference_mode(False), torch.no_grad():
        return torch.cat(list(arenas))


def as_constants(arenas: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same memory in tensors that a trace takes for constants, whether or not it knew `arenas` as buffers
    when it began: so a trace that had them packed and its check, which finds them packed, record the same."""
    with _unobserved():
        return tuple(arena.detach() for arena in arenas)


@contextmanager
def _unobserved() -> Iterator[None]:
    """Compute now, in no trace and under no dispatch mode."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        with _disable_current_modes():
            yield
    finally:
        torch._C._set_tracing_state(state)


def _check_modules(layers: list[nn.Module], family: Family, hidden_act: str) -> None:
    expected_activation = type(ACT2FN[hidden_act])
    for index, layer in enumerate(layers):
        activation = layer.get_submodule(family.activation)
        if type(activation) is not expected_activation:
            raise OriginalPath(
                f"layer {index} applies {type(activation).__name__}, but its config says {hidden_act!r}"
            )
        for name, module in layer.named_modules():
            if getattr(module, PRUNED, None):
                raise OriginalPath(f"heads of layer {index} were pruned")
            if module is not activation and type(module) not in family.parts:
                kind = f"{type(module).__module__}.{type(module).__qualname__}"
                raise OriginalPath(f"layer {index} contains {name} of type {kind}")


def _check_weight(weight: Tensor | None, freed: bool) -> None:
    if weight is None:
        raise OriginalPath("a linear layer or LayerNorm has no weight or no bias")
    if type(weight) not in (nn.Parameter, Tensor):
        raise OriginalPath(f"a weight is of type {type(weight).__name__}")
    if weight.device.type != ("meta" if freed else "cpu"):
        raise OriginalPath(f"the weights are on device {weight.device}")
    if weight.dtype not in _BITS or weight.layout != torch.strided:
        raise OriginalPath(f"a weight has dtype {weight.dtype} and layout {weight.layout}")


def _addresses(weights: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(map(Tensor.data_ptr, weights))


def _versions(weights: tuple[Tensor, ...]) -> tuple[int, ...]:
    try:
        return tuple(map(operator.attrgetter("_version"), weights))
    except RuntimeError:  # weights that were made in inference mode count no versions
        return ()


def _samples(weights: tuple[Tensor, ...]) -> tuple[memoryview, ...]:
    """For each weight, a view of about `_SAMPLES` elements spread over the memory that it spans.

    A view does not keep the memory: it may be read only while the weight is at the same address. A NumPy
    array would keep it, but would also forbid to resize it, and importing the package must not change that.
    """
    views = []
    for weight in weights:
        span = 1 + sum(
            (size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True)
        )
        elements = (_BITS[weight.dtype] * span).from_address(weight.data_ptr())
        views.append(memoryview(elements)[:: max(1, span // _SAMPLES)])
    return tuple(views)


def _read(samples: tuple[memoryview, ...]) -> tuple[bytes, ...]:
    return tuple(map(memoryview.tobytes, samples))
