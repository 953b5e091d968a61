"""Packed weights follow the parameters: what makes them, what changes them, what copies them."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bert_op
import pytest
import torch
from op_models import hugging_face, model_pair, random_batch, random_model, runs_op, tiny_config
from transformers import BertModel

TOLERANCE = 2e-5


def assert_agrees(model: Any, inputs: dict[str, Any]) -> None:
    """The op in `model` computes what Hugging Face computes from the weights that `model` has now."""
    with hugging_face():
        reference = BertModel(model.config).eval()
    reference.load_state_dict(model.state_dict())
    assert runs_op(model.encoder)
    with torch.no_grad():
        output = model(**inputs).last_hidden_state
        expected = reference(**inputs).last_hidden_state
    torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_round_trip_through_save_pretrained(tmp_path: Any) -> None:
    with hugging_face():
        original = random_model(tiny_config())
    original.save_pretrained(tmp_path / "first")
    model = BertModel.from_pretrained(tmp_path / "first")
    with torch.no_grad():
        output = model(**random_batch()).last_hidden_state
    model.save_pretrained(tmp_path / "second")
    again = BertModel.from_pretrained(tmp_path / "second")
    with hugging_face():
        reference = BertModel.from_pretrained(tmp_path / "second")
    for (name, expected), found in zip(
        original.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), name
    with torch.no_grad():
        assert torch.equal(again(**random_batch()).last_hidden_state, output)
        expected = reference(**random_batch()).last_hidden_state
    torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)


def _optimizer_step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.encoder.requires_grad_(True)
    with pytest.warns(bert_op.BertOpWarning):
        model(**random_batch()).last_hidden_state.square().mean().backward()
    optimizer.step()


def _load(model: Any) -> None:
    model.load_state_dict(random_model(tiny_config(), seed=1).state_dict())


def _assign(model: Any) -> None:
    model.load_state_dict(random_model(tiny_config(), seed=1).state_dict(), assign=True)


def _in_place(model: Any) -> None:
    with torch.no_grad():
        model.encoder.layer[1].intermediate.dense.weight[3, 5] += 1.0


def _through_data(model: Any) -> None:
    model.encoder.layer[0].attention.self.value.weight.data.mul_(1.5)


def _new_data(model: Any) -> None:
    bias = model.encoder.layer[0].output.dense.bias
    bias.data = 3 * bias.data


def _new_parameter(model: Any) -> None:
    dense = model.encoder.layer[0].attention.output.dense
    dense.weight = torch.nn.Parameter(dense.weight.detach().neg())


def _new_module(model: Any) -> None:
    torch.manual_seed(7)
    model.encoder.layer[1].attention.self.key = torch.nn.Linear(64, 64)


def _train_and_evaluate(model: Any) -> None:
    model.train()
    _through_data(model)
    model.eval()


CHANGES: list[Callable[[Any], None]] = [
    _optimizer_step,
    _load,
    _assign,
    _in_place,
    _through_data,
    _new_data,
    _new_parameter,
    _new_module,
    _train_and_evaluate,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_weights_are_packed_again_when_parameters_change(change: Callable[[Any], None]) -> None:
    model = random_model(tiny_config())
    inputs = random_batch()
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
    change(model)
    assert_agrees(model, inputs)
    with torch.no_grad():
        assert not torch.allclose(model(**inputs).last_hidden_state, before, atol=1e-3)


def test_removed_and_added_layers_are_noticed() -> None:
    model = random_model(tiny_config(num_hidden_layers=3))
    inputs = random_batch()
    with torch.no_grad():
        model(**inputs)
    del model.encoder.layer[2]
    model.config.num_hidden_layers = 2
    assert_agrees(model, inputs)
    model.encoder.layer.append(copy.deepcopy(model.encoder.layer[0]))
    model.config.num_hidden_layers = 3
    assert_agrees(model, inputs)


def test_weights_are_not_packed_again_without_need() -> None:
    model = random_model(tiny_config())
    packed = model.encoder.packed_weights
    assert packed is not None
    with torch.inference_mode():
        model(**random_batch())
    model.eval()
    assert model.encoder.packed_weights is packed


def test_training_mode_frees_the_packed_weights() -> None:
    model = random_model(tiny_config())
    model.train()
    assert model.encoder.packed_weights is None
    model.eval()
    assert model.encoder.packed_weights is not None


def test_packing_in_inference_mode_leaves_ordinary_tensors() -> None:
    model = random_model(tiny_config())
    model.train()
    with torch.inference_mode():
        model.eval()
        model(**random_batch())
    assert not model.encoder.packed_weights.is_inference()


def test_model_made_in_inference_mode_runs_the_op() -> None:
    with torch.inference_mode():
        model = random_model(tiny_config())
        assert runs_op(model.encoder)


def test_conversion_to_another_dtype_packs_again() -> None:
    model = random_model(tiny_config())
    model.bfloat16()
    weight = model.encoder.layer[0].output.dense.weight
    assert weight.dtype == torch.bfloat16
    assert model.encoder.packed_weights.dtype == torch.uint8
    model.float()
    assert_agrees(model, random_batch())


def test_deepcopy_has_weights_of_its_own() -> None:
    model = random_model(tiny_config())
    clone = copy.deepcopy(model)
    _in_place(clone)
    assert_agrees(clone, random_batch())
    assert_agrees(model, random_batch())


@pytest.mark.parametrize("via", ["pickle", "torch.save"])
def test_pickle_does_not_contain_the_packed_weights(via: str) -> None:
    with bert_op.using(precision="bf16_qint8", skip_padding=True):
        model = random_model(tiny_config())
    buffer = io.BytesIO()
    if via == "pickle":
        pickle.dump(model, buffer)
    else:
        torch.save(model, buffer)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert buffer.tell() < parameters + 100_000
    buffer.seek(0)
    clone = pickle.load(buffer) if via == "pickle" else torch.load(buffer, weights_only=False)
    assert clone.encoder.op_policy == model.encoder.op_policy
    assert clone.encoder.packed_weights is not None
    with torch.no_grad():
        assert torch.equal(
            clone(**random_batch()).last_hidden_state, model(**random_batch()).last_hidden_state
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_an_error_of_the_forward(value: float) -> None:
    model = random_model(tiny_config())
    with torch.no_grad():
        model.encoder.layer[1].intermediate.dense.weight[0, 0] = value
    model.eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"layer.1.intermediate.dense.weight"):
        model(**random_batch())
    with pytest.raises(RuntimeError, match=r"layer.1.intermediate.dense.weight"):
        bert_op.optimize(model, "bf16")
    assert model.encoder.op_policy.precision is None


def test_meta_model_is_left_to_hugging_face() -> None:
    with torch.device("meta"):
        model = BertModel(tiny_config()).eval()
    assert model.encoder.packed_weights is None
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="device meta"):
        assert model(torch.zeros(1, 3, dtype=torch.long, device="meta")).last_hidden_state.shape == (1, 3, 64)


def test_calls_from_several_threads_agree() -> None:
    model = random_model(tiny_config())
    batches = [
        random_batch(batch, seq_len, seed=batch) for batch, seq_len in [(1, 5), (4, 17), (2, 64), (3, 1)]
    ]

    def run(inputs: dict[str, Any]) -> torch.Tensor:
        with torch.inference_mode():
            return model(**inputs).last_hidden_state

    expected = [run(inputs) for inputs in batches]
    model.encoder._drop()  # so that the threads also meet while packing
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(run, batches * 8))
    for index, output in enumerate(outputs):
        assert torch.equal(output, expected[index % len(batches)])


def test_number_of_threads_does_not_change_the_result() -> None:
    for precision in ("fp32", "bf16_qint8"):
        with bert_op.using(precision=precision):
            model = random_model(tiny_config())
        threads = torch.get_num_threads()
        results = []
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                with torch.inference_mode():
                    results.append(model(**random_batch(3, 50)).last_hidden_state)
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_functional_call_uses_the_given_weights() -> None:
    model, reference = model_pair(tiny_config())
    other = random_model(tiny_config(), seed=3)
    weights = {name: value.detach() for name, value in other.named_parameters()}
    with torch.no_grad():
        output = torch.func.functional_call(model, weights, kwargs=random_batch()).last_hidden_state
        expected = other(**random_batch()).last_hidden_state
    torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(
            model(**random_batch()).last_hidden_state,
            reference(**random_batch()).last_hidden_state,
            atol=TOLERANCE,
            rtol=TOLERANCE,
        )


class Mask:
    """A mask that is no tensor, as other attention implementations have it."""


def test_mask_that_is_no_tensor_is_left_to_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = random_model(tiny_config(attn_implementation="flex_attention")).encoder
    seen: list[Any] = []
    monkeypatch.setattr(encoder, "_original", lambda states, mask, *rest, **named: seen.append(mask))
    mask = Mask()
    with pytest.warns(bert_op.BertOpWarning, match="flex_attention"), torch.no_grad():
        encoder(torch.zeros(1, 2, 64), mask)
    assert seen == [mask]


def test_a_child_forked_while_another_thread_packs_does_not_wait_for_it() -> None:
    script = """
import os
import bert_op._packed_weights as packed
packed._packing.acquire()  # as another thread would have at this moment
child = os.fork()
if child == 0:
    os._exit(0 if packed._packing.acquire(timeout=10) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_fewer_threads_than_asked_for_give_the_same_result() -> None:
    script = """
import bert_op, torch
from transformers import BertConfig, BertModel
torch.manual_seed(0)
sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, vocab_size=99)
model = BertModel(BertConfig(**sizes)).eval()
results = []
for threads in (1, 6):  # the runtime gives four at most
    torch.set_num_threads(threads)
    with torch.inference_mode():
        results.append(model(torch.arange(90).reshape(3, 30)).last_hidden_state)
assert torch.equal(*results)
"""
    environment = {**os.environ, "OMP_THREAD_LIMIT": "4", "OMP_DYNAMIC": "false"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0
