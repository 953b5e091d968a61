"""What users change in a model: the op honours it, or Hugging Face's own path runs and one warning says why.

Each change is made to two equal models, one of which has the op, and both have to give the same.
"""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from bert_op._layer import OriginalPath, read_layer
from family_models import batch, encoder_of, family, pair
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAMES = ("bert", "roberta", "distilbert", "mpnet", "electra")
TOLERANCE = 3e-5

Change = Callable[[str, Any], None]


def layers(name: str, model: Any) -> list[Any]:
    return list(encoder_of(model).get_submodule(family(name).layers))


def part(name: str, layer: nn.Module, position: int) -> Any:
    """The module at a position of `Family.weighted`: 0 query, 3 attention output, 4 and 7 LayerNorms, 5 and 6
    feed-forward."""
    return layer.get_submodule(family(name).weighted[position])


def attention(name: str, layer: nn.Module) -> Any:
    return layer.get_submodule(family(name).weighted[0].rpartition(".")[0])


def place_of(name: str, layer: nn.Module, path: str) -> tuple[Any, str]:
    parent, _, last = path.rpartition(".")
    return layer.get_submodule(parent), last


def outputs(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(**(inputs or batch())).last_hidden_state


def assert_same(model: Any, reference: Any, **inputs: Any) -> None:
    torch.testing.assert_close(
        outputs(model, **inputs), outputs(reference, **inputs), atol=TOLERANCE, rtol=TOLERANCE
    )


def honoured(model: Any) -> bool:
    return not bert_op.explain(model)["fallbacks"]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def halved(function: Any) -> Any:
    def changed(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return (result[0] * 0.5, *result[1:]) if isinstance(result, tuple) else result * 0.5

    return changed


# ---- code that the op stands for -------------------------------------------------------------------------


def classes_of(name: str) -> list[type[nn.Module]]:
    own = [kind for kind in family(name).parts if kind.__module__.startswith("transformers.")]
    return sorted(own, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("name", NAMES)
def test_methods_patched_on_classes(name: str) -> None:
    model, reference = pair(name)
    before = outputs(model)
    for kind in [*classes_of(name), nn.Linear, nn.LayerNorm, nn.Dropout]:
        with replaced(kind, "forward", halved(kind.forward)):
            with pytest.warns(bert_op.BertOpWarning, match=rf"{kind.__name__}\.forward was replaced"):
                changed = outputs(model)
            torch.testing.assert_close(changed, outputs(reference), atol=0, rtol=0)
            assert not torch.allclose(changed, before, atol=1e-3), kind
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(outputs(model), before)  # by the op again


@pytest.mark.parametrize("name", NAMES)
def test_class_patched_before_the_model_is_made(name: str) -> None:
    kind = type(attention(name, layers(name, pair(name)[0])[0]))
    with replaced(kind, "forward", halved(kind.forward)), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, reference = pair(name)
        assert_same(model, reference)
    assert any("forward was replaced" in str(warning.message) for warning in caught)


FUNCTIONS = ("linear", "layer_norm", "gelu", "softmax", "scaled_dot_product_attention")


CALLS = [("bert", function) for function in FUNCTIONS] + [("mpnet", "linear"), ("mpnet", "softmax")]


@pytest.mark.parametrize(("name", "function"), CALLS)
def test_functions_of_torch_replaced(name: str, function: str) -> None:
    model, reference = pair(name)
    outputs(model)
    with replaced(functional, function, halved(getattr(functional, function))):
        with pytest.warns(bert_op.BertOpWarning, match=f"torch.nn.functional.{function} was replaced"):
            changed = outputs(model)
        torch.testing.assert_close(changed, outputs(reference), atol=0, rtol=0)
    assert_same(model, reference)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_attention_function_registered_under_its_own_name(name: str) -> None:
    model, reference = pair(name)
    outputs(model)
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    AttentionInterface.register("sdpa", halved(original))
    try:
        with pytest.warns(bert_op.BertOpWarning, match="'sdpa'. was replaced"):
            assert_same(model, reference)
    finally:
        AttentionInterface.register("sdpa", original)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_eager_attention_of_the_family_replaced(name: str) -> None:
    model, reference = pair(name, attn_implementation="eager")
    module = importlib.import_module(family(name).module)
    outputs(model)
    changed = replaced(module, "eager_attention_forward", halved(module.eager_attention_forward))
    with changed, pytest.warns(bert_op.BertOpWarning, match="eager_attention_forward was replaced"):
        assert_same(model, reference)


def test_code_of_a_function_replaced() -> None:
    model, reference = pair("bert")
    kind = type(part("bert", layers("bert", model)[0], 0))
    before = outputs(model)

    def zero(self: Any, input: Tensor) -> Tensor:
        return input.new_zeros(*input.shape[:-1], self.weight.shape[0])

    code = kind.forward.__code__
    kind.forward.__code__ = zero.__code__
    try:
        with pytest.warns(bert_op.BertOpWarning, match=r"Linear\.forward was replaced"):
            changed = outputs(model)
        assert torch.equal(changed, outputs(reference))
        assert not torch.allclose(changed, before, atol=1e-3)
    finally:
        kind.forward.__code__ = code


def _class_swapped(name: str, model: Any) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    part(name, layers(name, model)[1], 6).__class__ = Doubled


def _forward_on_an_instance(name: str, model: Any) -> None:
    linear = part(name, layers(name, model)[1], 3)
    linear.forward = halved(linear.forward)


class _Doubling(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return 2 * result if function is functional.layer_norm else result


@pytest.mark.parametrize("name", NAMES)
def test_modes_that_see_inner_operations(name: str) -> None:
    model, reference = pair(name)
    outputs(model)
    with pytest.warns(bert_op.BertOpWarning, match="_Doubling sees"), _Doubling():
        changed = outputs(model)
    with _Doubling():
        assert torch.equal(changed, outputs(reference))
    with FlopCounterMode(display=False) as counted, pytest.warns(bert_op.BertOpWarning, match="FlopCounter"):
        outputs(model)
    with FlopCounterMode(display=False) as expected:
        outputs(reference)
    assert counted.get_total_flops() == expected.get_total_flops() > 0
    with torch.device("cpu"), warnings.catch_warnings():  # a mode, too, but one that changes nothing inside
        warnings.simplefilter("error")
        outputs(model)


# ---- numbers ---------------------------------------------------------------------------------------------


def _scaling(name: str, model: Any) -> None:
    for layer in layers(name, model):
        attention(name, layer).scaling *= 2


def _scaling_of_one(name: str, model: Any) -> None:
    attention(name, layers(name, model)[1]).scaling *= -0.5


def _causal(name: str, model: Any) -> None:
    attention(name, layers(name, model)[0]).is_causal = True


def _epsilon_of_a_layer(name: str, model: Any) -> None:
    for position in (4, 7):
        part(name, layers(name, model)[1], position).eps = 0.3


def _epsilon_of_one(name: str, model: Any) -> None:
    part(name, layers(name, model)[0], 7).eps = 0.3


def _head_size(name: str, model: Any) -> None:
    for layer in layers(name, model):
        numbers = attention(name, layer)
        numbers.attention_head_size *= 2
        numbers.num_attention_heads = numbers.n_heads = 128 // numbers.attention_head_size


# ---- parts -----------------------------------------------------------------------------------------------


class _Skip(nn.Module):
    """A layer of a user's own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if self.name == "mpnet" else hidden_states


def _layer_replaced(name: str, model: Any) -> None:
    encoder_of(model).get_submodule(family(name).layers)[0] = _Skip(name).eval()


def _activation_replaced(name: str, model: Any, function: Any = torch.sin) -> None:
    for layer in layers(name, model):
        parent, last = place_of(name, layer, family(name).activation)
        delattr(parent, last)
        setattr(parent, last, function)


def _activation_known(name: str, model: Any) -> None:
    _activation_replaced(name, model, functional.relu)


def _one_activation(name: str, model: Any) -> None:
    parent, last = place_of(name, layers(name, model)[1], family(name).activation)
    setattr(parent, last, nn.GELU(approximate="tanh").eval())


def _narrow_feed_forward(name: str, model: Any, size: int = 96) -> None:
    up, down = (part(name, layers(name, model)[1], position) for position in (5, 6))
    up.weight, up.bias = nn.Parameter(up.weight.data[:size]), nn.Parameter(up.bias.data[:size])
    down.weight = nn.Parameter(down.weight.data[:, :size])


def _odd_feed_forward(name: str, model: Any) -> None:
    _narrow_feed_forward(name, model, 100)


def _heads_pruned(name: str, model: Any) -> None:
    """The last of four heads of 32 removed from a layer."""
    layer = layers(name, model)[1]
    for position in (0, 1, 2):
        linear = part(name, layer, position)
        linear.weight, linear.bias = (
            nn.Parameter(linear.weight.data[:96]),
            nn.Parameter(linear.bias.data[:96]),
        )
    output = part(name, layer, 3)
    output.weight = nn.Parameter(output.weight.data[:, :96])
    numbers = attention(name, layer)
    numbers.all_head_size = 96
    numbers.num_attention_heads = numbers.n_heads = 3


def _layers_shared(name: str, model: Any) -> None:
    first = layers(name, model)[0]
    encoder_of(model).layer = nn.ModuleList([first, first, first])


def _layers_dropped(name: str, model: Any) -> None:
    del encoder_of(model).layer[0]


def _square_weight_transposed(name: str, model: Any) -> None:
    weight = part(name, layers(name, model)[0], 0).weight
    weight.data = weight.data.t()


# change -> whether the op honours it, by family where they differ
CHANGES: dict[Change, bool] = {
    _class_swapped: False,
    _forward_on_an_instance: False,
    _scaling: True,
    _scaling_of_one: True,
    _causal: False,
    _epsilon_of_a_layer: True,
    _epsilon_of_one: False,
    _head_size: True,
    _layer_replaced: False,
    _activation_replaced: False,
    _activation_known: True,
    _one_activation: True,
    _narrow_feed_forward: True,
    _odd_feed_forward: False,
    _heads_pruned: False,
    _layers_shared: True,
    _layers_dropped: True,
    _square_weight_transposed: True,
}
# Of numbers that MPNet does not keep, or that its position bias has to fit.
NOT_MPNETS = (_scaling, _scaling_of_one, _causal, _head_size, _heads_pruned)


MOMENTS = [*((name, "after") for name in NAMES), ("bert", "before"), ("bert", "optimized")]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize(("name", "moment"), MOMENTS)
def test_changes_to_modules(name: str, change: Change, moment: str) -> None:
    if name == "mpnet" and change in NOT_MPNETS:
        pytest.skip("MPNet keeps no such number, or fails itself")
    model, reference = pair(name)
    if moment == "before":
        encoder_of(model)._drop()
    else:
        outputs(model)
    for each in (model, reference):
        change(name, each)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if moment == "optimized":
            bert_op.optimize(model, "fp32", skip_padding=False)
        assert_same(model, reference)
        no_mask = {"input_ids": batch()["input_ids"]}
        assert_same(model, reference, **no_mask)
        assert honoured(model) == CHANGES[change], bert_op.explain(model)["fallbacks"]
        # Nothing that one does with a model fails because of the change.
        assert_same(copy.deepcopy(model), reference)
        assert_same(model.train().eval().to(torch.float32), reference)
        ranges = bert_op.calibrate(model, [batch()])
        assert len(ranges) == 8 * len(layers(name, model))
        bert_op.optimize(model, "bf16_qint8", skip_padding=False, quantization_factors=ranges)
        near = outputs(model)
        expected = outputs(reference)
        assert (near - expected).norm() < 0.2 * expected.norm()
        bert_op.restore(model)
        assert torch.equal(outputs(model), expected)


def test_layers_of_different_sizes_are_packed() -> None:
    model, _ = pair("bert")
    _narrow_feed_forward("bert", model)
    outputs(model)
    packed = bert_op.explain(model)["encoders"][0]["packed"]
    assert [segment["intermediate_size"] for segment in packed] == [192, 96]


def test_reading_a_layer_names_it_and_what_is_wrong() -> None:
    model, _ = pair("bert")
    layers("bert", model)[1].attention.self.is_causal = True
    with pytest.raises(OriginalPath, match=r"in layer 1, is_causal of attention.self is True"):
        read_layer(layers("bert", model)[1], family("bert"), 1)


def test_code_is_known_although_the_file_of_transformers_was_changed() -> None:
    """Its own test tools do that, so that it is found in a checkout."""
    lines = (
        "import transformers",
        "transformers.__file__ = '/nowhere/src/transformers/__init__.py'",
        "import bert_op, torch",
        "from op_models import random_model, tiny_config",
        "model = random_model(tiny_config())",
        "with torch.no_grad(): model(torch.ones(1, 4, dtype=torch.long))",
        "assert bert_op.explain(model)['fallbacks'] == []",
    )
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=Path(__file__).parent, check=False)
    assert run.returncode == 0
