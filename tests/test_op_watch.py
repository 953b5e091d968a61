"""What a watch notices, by memory and by Python, and that both notice the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bert_op import _watch
from bert_op._watch import Layout, Watch, layout
from torch import nn


def test_this_interpreter_and_this_torch_are_known() -> None:
    """Where this fails, all is asked of Python: as right, and slower."""
    assert layout().type is not None
    assert layout().code is not None
    assert layout().tensor is not None


@pytest.fixture(params=["memory", "Python"])
def linear(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Linear]:
    if request.param == "Python":
        monkeypatch.setattr(_watch, "layout", lambda: Layout(None, None, None, None))
    yield nn.Linear(64, 64).eval()


def watch(linear: nn.Linear) -> Watch:
    watch = Watch()
    watch.add_module(linear)
    watch.add_dict(linear._parameters)
    for weight in linear.parameters():
        watch.add_tensor(weight)
        watch.add_samples(weight.data_ptr(), weight.nbytes, weight.element_size())
    watch.start()
    return watch


class _Other(nn.Linear):
    pass


def _in_place(linear: nn.Linear) -> None:
    with torch.no_grad():
        linear.weight[3, 5] += 1


def _through_data(linear: nn.Linear) -> None:
    linear.weight.data.mul_(1.5)


def _new_data(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data.clone()


def _transposed(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data.t()


def _new_parameter(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.detach().clone())


def _swapped(linear: nn.Linear) -> None:
    torch.utils.swap_tensors(linear.weight, nn.Parameter(torch.zeros(64, 64)))


def _no_memory(linear: nn.Linear) -> None:
    linear.bias.untyped_storage().resize_(0)


def _hook(linear: nn.Linear) -> None:
    linear.register_forward_hook(lambda *_: None)


def _attribute(linear: nn.Linear) -> None:
    linear.forward = lambda input: input


def _number(linear: nn.Linear) -> None:
    linear.in_features = 3


def _class(linear: nn.Linear) -> None:
    linear.__class__ = _Other


CHANGES: list[Callable[[Any], None]] = [
    _in_place,
    _through_data,
    _new_data,
    _transposed,
    _new_parameter,
    _swapped,
    _no_memory,
    _hook,
    _attribute,
    _number,
    _class,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_changes_are_noticed(change: Callable[[nn.Linear], None], linear: nn.Linear) -> None:
    watched = watch(linear)
    assert watched.same()
    assert watched.same()
    change(linear)
    assert not watched.same()


def test_a_write_to_a_sampled_element_is_noticed_within_eight_calls(linear: nn.Linear) -> None:
    for index in (0, -1):
        watched = watch(linear)
        linear.weight.data.view(-1)[index] += 1
        assert [watched.same() for _ in range(_watch.SAMPLES)].count(False) == 1


def test_what_changes_nothing_is_not_noticed(linear: nn.Linear) -> None:
    watched = watch(linear)
    linear.to("cpu").to(torch.float32)
    linear(torch.zeros(1, 64))
    linear.weight.data = linear.weight.data
    assert [watched.same() for _ in range(2 * _watch.SAMPLES)].count(False) == 0


def test_weights_made_in_inference_mode_are_watched() -> None:
    with torch.inference_mode():
        linear = nn.Linear(64, 64)
        watched = watch(linear)
        assert watched.same()
        linear.weight.mul_(2)
        assert not watched.same()


def test_code_of_a_function_is_watched() -> None:
    def function() -> int:
        return 1

    watched = Watch()
    watched.add_code(function)
    watched.start()
    assert watched.same()
    function.__code__ = (lambda: 2).__code__
    assert not watched.same()
