"""One layer of an encoder: what the operator has to know of it, read from its modules, not from the config.

A layer that is not as its family made it, or that a user changed, is read like any other: what the operator
can compute is a value here, all else a reason for the original path.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bert_op._families import ACTIVATIONS, HEAD_SIZES, Family
from bert_op._policy import FACTORS_PER_LAYER, LINEARS, Policy, kept_as_selectors, kept_of
from bert_op._recording import is_recording_hook, replaced_forward
from bert_op._seam import PRUNED

# The positions in `Family.weighted` of the LayerNorms.
_LAYER_NORMS = (4, 7)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Numbers that modules of a layer compute with.
_NUMBERS = ("attention_head_size", "eps", "is_causal", "scaling")
# What modules of a layer compute with, in one version of transformers or another, and the only value that the
# operator knows.
_FIXED: dict[str, tuple[object, ...]] = {
    "is_causal": (False, None),
    "is_decoder": (False, None),
    "is_cross_attention": (False, None),
    "add_cross_attention": (False, None),
    "position_embedding_type": ("absolute", None),
    "num_key_value_groups": (1, None),
    "seq_len_dim": (1, None),
}


class OriginalPath(Exception):
    """Hugging Face's own code has to run; the message is the reason, a clause without a full stop."""


@dataclass(frozen=True)
class Kind:
    """What layers that are packed together have in common.

    Attributes:
        num_heads, intermediate_size, hidden_size: their sizes.
        hidden_act: one of the operator's activations.
        layer_norm_eps: of both LayerNorms.
    """

    num_heads: int
    hidden_size: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as it was when it was read.

    Attributes:
        module: the layer itself.
        kind: see `Kind`.
        scaling: of the scores, as a multiple of the usual head_size ** -0.5.
        kept: of `LINEARS`, those that the int8 precisions leave unquantized.
        factors: empty, or its static ranges, 8 numbers.
        weights: 16 tensors in the order of `prepack`.
    """

    module: nn.Module
    kind: Kind
    scaling: float
    kept: tuple[str, ...]
    factors: tuple[float, ...]
    weights: tuple[Tensor, ...]

    @property
    def facts(self) -> tuple[object, ...]:
        """Equal for layers that are packed alike from the same tensors."""
        return (self.kind, self.scaling, self.kept, self.factors, *map(id, self.weights))

    def precision(self, precision: str) -> str:
        """The layer's own in a model of `precision`: kept ones have that which others are quantized from."""
        return precision.removesuffix("_qint8") if len(self.kept) == len(LINEARS) else precision


# The attribute of a layer that holds `kept` (True: all of it) and `factors`: what is chosen for a layer stays
# with it, wherever it is moved. Plain values, which may be pickled without this package.
_CHOSEN = "_bert_op"


def choose(layers: Iterable[nn.Module], policy: Policy) -> None:
    """Let each of the `layers` have what `policy` says by their numbers."""
    each: dict[nn.Module, tuple[tuple[str, ...], tuple[float, ...]]] = {}
    for index, layer in enumerate(layers):
        kept = kept_of(policy.keep_layers, index)
        factors = policy.quantization_factors[FACTORS_PER_LAYER * index : FACTORS_PER_LAYER * (index + 1)]
        if layer in each:  # the same module again: what fits both places
            kept = tuple(name for name in LINEARS if name in kept or name in each[layer][0])
            pairs = zip(each[layer][1], factors, strict=True)
            factors = tuple(pick(pair) for pick, pair in zip((min, max) * 4, pairs, strict=False))
        each[layer] = kept, factors
    for layer, options in each.items():
        vars(layer).pop(_CHOSEN, None)
        if any(options):
            vars(layer)[_CHOSEN] = options


def chosen(layers: Iterable[nn.Module], policy: Policy) -> Policy:
    """`policy` with what the `layers` have, by the numbers that they have now.

    Static ranges that only some of the quantized layers have cannot be said by it.
    """
    each = [_choice(layer) for layer in layers]
    whole = policy.quantized and all(factors for _, factors in each)
    ranges = itertools.chain.from_iterable(factors for _, factors in each) if whole else ()
    kept = kept_as_selectors([names for names, _ in each])
    return replace(policy, keep_layers=kept, quantization_factors=tuple(ranges))


def _choice(layer: nn.Module) -> tuple[tuple[str, ...], tuple[float, ...]]:
    kept, factors = vars(layer).get(_CHOSEN, ((), ()))
    if isinstance(kept, bool):  # pickled when only whole layers could be kept
        kept = LINEARS if kept else ()
    return kept, factors


def read_layer(
    layer: nn.Module,
    family: Family,
    index: int,
    *,
    freed: bool = False,
    weights: tuple[Tensor, ...] | None = None,
) -> Layer:
    """Layer number `index` of an encoder, whose weights may be without data if they were `freed`.

    Args:
        weights: what to take for the layer's weights, while something else stands in their places.
    Raises:
        OriginalPath: the operator cannot run the layer, or something wants to see what happens in it.
    """
    try:
        return _read(layer, family, freed, weights)
    except OriginalPath as reason:
        raise OriginalPath(f"in layer {index}, {reason}") from None


def _read(layer: nn.Module, family: Family, freed: bool, weights: tuple[Tensor, ...] | None) -> Layer:
    activation = _child(layer, family.activation)
    for name, module in layer.named_modules():
        if module is not activation and type(module) not in family.parts:
            raise OriginalPath(f"{name or 'the layer itself'} is of type {_name_of(module)}")
        _check_untouched(module, f"{name or 'the layer'}")
    weighted = [_child(layer, path) for path in family.weighted]
    if weights is None:
        weights = tuple(
            _checked_weight(module._parameters.get(name), f"{path}.{name}", freed)
            for path, module in zip(family.weighted, weighted, strict=True)
            for name in ("weight", "bias")
        )
    hidden_size, intermediate_size = weights[8].numel(), weights[11].numel()
    _check_shapes(weights, family, hidden_size, intermediate_size)
    num_heads, scaling = _attention(_child(layer, family.weighted[0].rpartition(".")[0]), hidden_size)
    eps = [weighted[position].eps for position in _LAYER_NORMS]
    if eps[0] != eps[1] or not isinstance(eps[0], (int, float)):
        raise OriginalPath(f"the LayerNorms differ in epsilon: {eps[0]!r} and {eps[1]!r}")
    kind = Kind(num_heads, hidden_size, intermediate_size, _hidden_act(activation), float(eps[0]))
    kept, factors = _choice(layer)
    return Layer(layer, kind, scaling, kept, factors, weights)


def look_at(layers: Iterable[nn.Module]) -> int:
    """What `torch.compile` has to see when it records a graph in which the operator stands for `layers`.

    It records again when something changes that was asked here: which modules there are, their mode, and the
    numbers that they compute with.
    """
    seen = 0
    todo = list(layers)
    while todo:
        module = todo.pop()
        todo.extend(module._modules.values())
        seen += id(module) % 2 + module.training
        seen += "forward" in module.__dict__
        for name in _NUMBERS:
            if name in module.__dict__:
                seen += getattr(module, name) == 0
        for parameter in module._parameters.values():
            seen += id(parameter) % 2
    return seen


def _name_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _child(layer: nn.Module, path: str) -> Any:
    """What is at `path`: a module or (an activation) a function."""
    found: Any = layer
    for name in path.split("."):
        found = getattr(found, name, None)
        if found is None:
            raise OriginalPath(f"which is of type {_name_of(layer)}, there is no {path}")
    return found


def _check_untouched(module: nn.Module, name: str) -> None:
    """Raises OriginalPath where something sees, or changes, what a module of a layer computes."""
    if module.training and type(module) not in (nn.Linear, nn.LayerNorm):
        raise OriginalPath(f"{name} is in training mode")
    for hooks in _HOOKS:
        # Once asked for hidden states or attentions, a model keeps Hugging Face's hooks; they are idle until
        # asked again, which `recording` tells.
        if not all(map(is_recording_hook, getattr(module, hooks).values())):
            raise OriginalPath(f"hooks are registered on {name}")
    if "forward" in vars(module) and (reason := replaced_forward([vars(module)])):
        raise OriginalPath(f"{reason}: {name}")
    if vars(module).get(PRUNED):
        raise OriginalPath(f"heads of {name} were pruned")
    for attribute, value in vars(module).items():
        if value is not None and attribute != "forward" and callable(getattr(type(module), attribute, None)):
            raise OriginalPath(f"the {attribute} method of {name} was replaced")
        if attribute in _FIXED and value not in _FIXED[attribute]:
            raise OriginalPath(f"{attribute} of {name} is {value!r}")


def _checked_weight(weight: Tensor | None, name: str, freed: bool) -> Tensor:
    if weight is None:
        raise OriginalPath(f"a linear layer or LayerNorm has no weight or no bias: {name}")
    if type(weight) not in (nn.Parameter, Tensor):
        raise OriginalPath(f"{name} is of type {type(weight).__name__}")
    if torch._C._functorch.is_functorch_wrapped_tensor(weight):
        raise OriginalPath(f"a function transform is applied to {name}")
    if weight.device.type != ("meta" if freed else "cpu"):
        raise OriginalPath(f"{name} is on device {weight.device}")
    if weight.dtype not in _DTYPES or weight.layout != torch.strided:
        raise OriginalPath(f"{name} has dtype {weight.dtype} and layout {weight.layout}")
    return weight


def _check_shapes(weights: tuple[Tensor, ...], family: Family, hidden: int, intermediate: int) -> None:
    square, vector = (hidden, hidden), (hidden,)
    feed_forward = [(intermediate, hidden), (intermediate,), (hidden, intermediate), vector]
    wanted = [*[square, vector] * 4, vector, vector, *feed_forward, vector, vector]
    for position, (weight, shape) in enumerate(zip(weights, wanted, strict=True)):
        if tuple(weight.shape) != shape:
            name = f"{family.weighted[position // 2]}.{('weight', 'bias')[position % 2]}"
            raise OriginalPath(f"{name} has shape {tuple(weight.shape)} where {shape} is expected")
    if hidden % 32 or intermediate % 32:
        raise OriginalPath(
            f"hidden_size={hidden} and intermediate_size={intermediate} are not both multiples of 32"
        )


def _attention(attention: nn.Module, hidden_size: int) -> tuple[int, float]:
    """Number of heads, and `Layer.scaling`."""
    numbers = vars(attention)
    heads = {numbers[name] for name in ("num_attention_heads", "n_heads") if name in numbers}
    head_size = numbers.get("attention_head_size", hidden_size // next(iter(heads), 1))
    if head_size not in HEAD_SIZES:
        raise OriginalPath(f"head size {head_size} is not one of {HEAD_SIZES}")
    whole = {numbers.get(name, hidden_size) for name in ("all_head_size", "dim")}
    num_heads = hidden_size // head_size
    if not heads <= {num_heads} or whole != {hidden_size} or num_heads * head_size != hidden_size:
        raise OriginalPath(
            f"{', '.join(map(str, heads))} heads of size {head_size}, {', '.join(map(str, whole))} together, "
            f"are not hidden_size={hidden_size}"
        )
    usual = head_size**-0.5
    scaling = getattr(attention, "scaling", usual)
    if isinstance(scaling, bool) or not isinstance(scaling, (int, float)) or not math.isfinite(scaling):
        raise OriginalPath(f"scaling of its attention is {scaling!r}")
    return num_heads, scaling / usual


def _hidden_act(activation: Any) -> str:
    """The operator's name of what `activation`, a module or a function, computes."""
    for known, name in _known_activations():
        if type(activation) is type(known) and _state(activation) == _state(known):
            return name
    kind = getattr(activation, "__name__", None) or type(activation).__name__
    raise OriginalPath(f"it applies {kind}, which is not one of {', '.join(ACTIVATIONS)} as they are")


@functools.cache
def _known_activations() -> tuple[tuple[Any, str], ...]:
    """Examples of the operator's activations, and its names for them."""
    functions = ((nn.functional.gelu, "gelu"), (nn.functional.relu, "relu"), (torch.relu, "relu"))
    modules = ((nn.GELU(), "gelu"), (nn.GELU(approximate="tanh"), "gelu_new"))
    named = ((ACT2FN[theirs], ours) for theirs, ours in ACTIVATIONS.items() if theirs in ACT2FN)
    return (*functions, *modules, *named)


def activation_classes() -> frozenset[type[nn.Module]]:
    """Of the modules among the operator's activations."""
    return frozenset(type(known) for known, _ in _known_activations() if isinstance(known, nn.Module))


def _state(activation: Any) -> object:
    """What an activation computes with, beside the code of its class."""
    if not isinstance(activation, nn.Module):
        return activation
    state = {}
    for name, value in vars(activation).items():
        if not name.startswith("_") and name != "training":
            value = getattr(value, "__func__", value)  # a method of its own
            partial = isinstance(value, functools.partial)
            state[name] = (value.func, value.args, value.keywords) if partial else value
    return state
