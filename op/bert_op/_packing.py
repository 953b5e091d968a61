"""Packed weights: what they were made from, whether they are still true, and making them.

`Sources` is a snapshot of an encoder's layers. Asking it whether the layers are still the ones that were
packed, and still do nothing but what a layer does, happens before every forward.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _disable_current_modes

from bert_op._code import code_of
from bert_op._families import Family, config_of, unsupported_sizes
from bert_op._layer import Kind, Layer, OriginalPath, read_layer
from bert_op._policy import LINEARS, Policy
from bert_op._watch import Watch

# Of torch.nn.modules.module: hooks on all modules of the process.
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_CONTAINERS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True, eq=False)
class Sources:
    """The layers of one encoder as they were when they were read.

    Attributes:
        layers: one value each.
        modules: watches what the encoder consists of, its numbers and hooks, and the code it stands for.
        parameters: watches which tensors the modules have.
        tensors: watches these tensors.
    """

    layers: tuple[Layer, ...]
    modules: Watch
    parameters: Watch
    tensors: Watch

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """16 tensors a layer, in the order of `prepack`."""
        return tuple(itertools.chain.from_iterable(layer.weights for layer in self.layers))

    def same_modules(self) -> bool:
        """Whether the encoder still consists of these modules and parameters, as they were."""
        return self.modules.same() and self.parameters.same()

    def same_weights(self) -> bool:
        """Whether the weights are where they were and hold the same, as far as torch and the samples tell."""
        return self.tensors.same()

    def packs_like(self, other: Sources) -> bool:
        """Whether `other`, which was read later, would be packed into the same bytes."""
        mine, theirs = ([layer.facts for layer in sources.layers] for sources in (self, other))
        return mine == theirs and self.tensors.same() and self.tensors.all_samples_same()

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """Of the matrices, which decide the precision where nobody chose one."""
        return frozenset(weight.dtype for weight in self.weights if weight.dim() == 2)

    def any_requires_grad(self) -> bool:
        return any(weight.requires_grad for layer in self.layers for weight in layer.weights)


def read_sources(encoder: nn.Module, family: Family, *, freed: bool = False) -> Sources:
    """Snapshot the layers of `encoder`, whose weights may be without data if they were `freed`.

    Raises:
        OriginalPath: the operator does not cover the encoder's sizes, activation, modules or tensors, or
            something sees or changes what it computes.
    """
    with _unobserved():
        return _read_sources(encoder, family, freed)


def check_structure(encoder: nn.Module, family: Family, sources: Sources) -> None:
    """Raises OriginalPath unless the encoder is still that of `sources`, whatever stands in the places of its
    tensors: where a graph is exported, these are placeholders."""
    layers = encoder.get_submodule(family.layers)._modules.values()
    _check_code(family)
    now = [
        read_layer(layer, family, index, weights=known.weights).facts
        for index, (layer, known) in enumerate(zip(layers, sources.layers, strict=False))
    ]
    if len(layers) != len(now) or now != [layer.facts for layer in sources.layers]:
        raise OriginalPath("it was changed since it was packed (call eval() last)")


def _check_code(family: Family) -> None:
    if change := code_of(family).change():
        raise OriginalPath(change)
    if any(getattr(torch_module, name) for name in _GLOBAL_HOOKS):
        raise OriginalPath("hooks are registered on all modules")


def _read_sources(encoder: nn.Module, family: Family, freed: bool) -> Sources:
    container = encoder.get_submodule(family.layers)
    if type(container) not in _CONTAINERS:
        raise OriginalPath(f"its layers are in a {type(container).__qualname__}")
    if not container._modules:
        raise OriginalPath("the encoder has no layers")
    config = config_of(encoder)
    if config is None:
        raise OriginalPath("none of its layers has a config")
    if reason := unsupported_sizes(config, family):
        raise OriginalPath(reason)
    _check_code(family)
    layers = tuple(
        read_layer(layer, family, index, freed=freed)
        for index, layer in enumerate(container._modules.values())
    )
    if len({(layer.kind.hidden_size, layer.kind.num_heads) for layer in layers}) != 1:
        raise OriginalPath("the layers differ in hidden size or number of heads")
    modules, parameters, tensors = Watch(), Watch(), Watch()
    code_of(family).watch(modules)
    for name in _GLOBAL_HOOKS:
        modules.add_dict(getattr(torch_module, name))
    modules.add_dict(encoder._modules)
    modules.add_type(container)
    modules.add_dict(container._modules)
    configs = {id(config): config}
    for layer in layers:
        for module in layer.module.modules():
            modules.add_module(module)
            parameters.add_dict(module._parameters)
            if "config" in vars(module):
                configs[id(module.config)] = module.config
    for each in configs.values():
        modules.add_dict(vars(each))
    for layer in layers:
        for weight in layer.weights:
            tensors.add_tensor(weight)
    if not freed:
        for layer in layers:
            for weight in layer.weights:
                tensors.add_samples(weight.data_ptr(), _span(weight), weight.element_size())
    for watch in (modules, parameters, tensors):
        watch.start()
    return Sources(layers, modules, parameters, tensors)


def pack(sources: Sources, policy: Policy) -> tuple[Tensor, ...]:
    """The weights of `sources` in the operator's layout, as tensors that any mode may use later.

    Returns:
        One 1-D uint8 tensor for each run of consecutive layers of the same sizes and precision.
    Raises:
        RuntimeError: a weight is not finite.
    """

    assert policy.precision is not None
    chosen = policy.precision
    if (known := _known_layers.get(None)) is not None:
        return tuple(_pack_known(sources, index, chosen, known) for index in range(len(sources.layers)))

    def alike(index: int) -> tuple[Kind, str, tuple[str, ...], bool]:
        layer = sources.layers[index]
        precision = layer.precision(chosen)
        return layer.kind, precision, kept_in(layer, precision), bool(layer.factors)

    runs = itertools.groupby(range(len(sources.layers)), alike)
    return tuple(pack_layers(sources, list(run), precision) for (_, precision, _, _), run in runs)


_known_layers: ContextVar[dict[object, Tensor] | None] = ContextVar("bert_op_known_layers")


@contextmanager
def layers_packed_apart() -> Iterator[None]:
    """In the `with` block each layer is packed by itself, and what nothing was chosen for only once: for many
    packings that differ in few layers."""
    token = _known_layers.set({})
    try:
        yield
    finally:
        _known_layers.reset(token)


def packing_apart() -> bool:
    """Whether this is inside of such a block, where nothing that is packed stays."""
    return _known_layers.get(None) is not None


def _pack_known(sources: Sources, index: int, chosen: str, known: dict[object, Tensor]) -> Tensor:
    layer = sources.layers[index]
    precision = layer.precision(chosen)
    if kept_in(layer, precision):
        return pack_layers(sources, [index], precision)
    before = sources.layers[index - 1].facts if index > 0 else None
    key = (layer.facts, before, precision)
    if key not in known:
        known[key] = pack_layers(sources, [index], precision)
    return known[key]


def kept_in(layer: Layer, precision: str) -> tuple[str, ...]:
    """The linear layers that are left unquantized among others that are quantized."""
    return layer.kept if precision.endswith("_qint8") else ()


def pack_layers(
    sources: Sources, layers: Sequence[int], precision: str, kept: tuple[str, ...] | None = None
) -> Tensor:
    """Consecutive layers of one kind in one precision, which keep the same of their linear layers unquantized
    (or `kept`, if given); int8 by their own static ranges, if any."""
    chosen = [sources.layers[index] for index in layers]
    kind = chosen[0].kind
    kept = kept_in(chosen[0], precision) if kept is None else kept
    with _unobserved(), torch.inference_mode(False), torch.no_grad():
        (arena,) = torch.ops.bert_op.prepack(
            [weight.detach() for layer in chosen for weight in _scaled(layer)],
            num_heads=kind.num_heads,
            hidden_act=kind.hidden_act,
            layer_norm_eps=kind.layer_norm_eps,
            precision=precision,
            quantization_factors=[factor for layer in chosen for factor in layer.factors]
            if precision.endswith("_qint8")
            else [],
            kept_linears=sum(1 << LINEARS.index(name) for name in kept),
            input_norm=_input_norm(sources, layers[0]),
        )
    return arena


def _input_norm(sources: Sources, index: int) -> Tensor | None:
    """Weight and bias of the LayerNorm whose result a layer reads, where that is another layer's of its size:
    so it is packed alike whether or not the layer before is packed with it."""
    before = sources.layers[index - 1] if index > 0 else None
    if before is None or before.kind != sources.layers[index].kind:
        return None
    return torch.stack([weight.detach() for weight in before.weights[-2:]])


def _scaled(layer: Layer) -> tuple[Tensor, ...]:
    """The weights; another scaling of the scores than the usual one is as well a scaling of the queries."""
    if layer.scaling == 1:
        return layer.weights
    return (*(weight * layer.scaling for weight in layer.weights[:2]), *layer.weights[2:])


def _span(weight: Tensor) -> int:
    """How many bytes lie between the first and the last element of `weight`, including both."""
    steps = ((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    return (1 + sum(steps)) * weight.element_size()


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
