"""Where nobody chose a precision, it follows the model and autocast, and every change of either."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import bert_op
import family_models
import pytest
import torch
from bert_op import _policy
from bert_op._policy import Policy, current_policy, followed_precision, policy_of_config
from op_models import model_pair, random_batch, random_model, tiny_config
from torch import Tensor, nn
from transformers import BertModel

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def output_of(
    model: Any, autocast: torch.dtype | None = None, inputs: dict[str, Tensor] | None = None
) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
        output: Tensor = model(**(inputs or random_batch())).last_hidden_state
    return output


def chosen(model: Any, precision: str) -> Tensor:
    """What a copy of `model` gives in a precision that was chosen."""
    copied = bert_op.optimize(copy.deepcopy(model), precision, skip_padding=False)
    assert bert_op.explain(copied)["precision"] == precision
    return output_of(copied)


def runs_in(model: Any) -> str:
    """The precision that `explain` names, once the packed weights that it shows agree."""
    output_of(model)
    state = bert_op.explain(model)
    assert state["fallbacks"] == []
    assert {layer["precision"] for layer in state["layers"]} == {state["precision"]}
    assert state["encoders"][0]["packed"]["precision"] == state["precision"]
    return str(state["precision"])


@pytest.mark.parametrize(
    ("weights", "autocast", "expected"),
    [
        ({FP32}, None, "fp32"),
        ({FP16}, None, "fp32"),
        ({FP64}, None, "fp32"),
        ({BF16}, None, "bf16"),
        ({BF16, FP32}, None, "fp32"),
        ({BF16, FP16}, None, "fp32"),
        ({FP32}, BF16, "bf16"),
        ({FP16}, BF16, "bf16"),
        ({BF16, FP32}, BF16, "bf16"),
        ({FP32}, FP16, "fp32"),
        ({BF16}, FP16, "fp32"),
    ],
)
def test_the_rule(weights: set[torch.dtype], autocast: torch.dtype | None, expected: str) -> None:
    assert followed_precision(frozenset(weights), autocast) == expected


@pytest.mark.parametrize(("dtype", "expected"), [(FP32, "fp32"), (FP16, "fp32"), (BF16, "bf16")])
def test_a_model_runs_in_what_it_is_in(dtype: torch.dtype, expected: str) -> None:
    model = random_model(tiny_config()).to(dtype)
    output = output_of(model)
    assert output.dtype == dtype
    assert runs_in(model) == expected
    assert torch.equal(output, chosen(model, expected))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            output, chosen(model, "bf16" if expected == "fp32" else "fp32"), rtol=0, atol=0
        )


@pytest.mark.parametrize("name", ["bert", "distilbert", "mpnet"])
@pytest.mark.parametrize("autocast", [None, BF16], ids=["model in bf16", "autocast"])
def test_error_is_at_most_twice_that_of_torch_in_bf16(name: str, autocast: torch.dtype | None) -> None:
    model, reference = family_models.pair(name)
    inputs = family_models.batch(4, 30)
    if autocast is None:
        model, reference = model.to(BF16), reference.to(BF16)
    expected = output_of(copy.deepcopy(reference).double(), None, inputs)
    output, torchs = output_of(model, autocast, inputs), output_of(reference, autocast, inputs)
    assert output.dtype == torchs.dtype
    assert bert_op.explain(model)["fallbacks"] == []
    error, torchs_error = ((result.double() - expected).norm() for result in (output, torchs))
    assert 0 < error <= 2 * torchs_error
    error, torchs_error = ((result.double() - expected).abs().max() for result in (output, torchs))
    assert error <= 2 * torchs_error


def _norms_in_fp32(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    return model


@pytest.mark.parametrize("autocast", [None, BF16, FP16])
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_result_has_the_dtype_that_hugging_face_gives_it(
    dtype: torch.dtype, autocast: torch.dtype | None
) -> None:
    model, reference = (_norms_in_fp32(made.to(dtype)) for made in model_pair(tiny_config()))
    expected = output_of(reference, autocast)
    output = output_of(model, autocast)
    assert bert_op.explain(model)["fallbacks"] == []
    assert output.dtype == expected.dtype
    assert (output - expected).norm() < 0.02 * expected.norm()


def test_autocast_runs_bf16_as_if_it_were_chosen() -> None:
    model = random_model(tiny_config())
    assert torch.equal(output_of(model, BF16), chosen(model, "bf16"))
    assert torch.equal(output_of(model), chosen(model, "fp32"))
    assert torch.equal(output_of(model, FP16), chosen(model, "fp32"))
    with torch.autocast("cpu", dtype=BF16):
        assert bert_op.explain(model)["precision"] == "bf16"
        with torch.autocast("cpu", enabled=False):
            assert bert_op.explain(model)["precision"] == "fp32"
    assert bert_op.explain(model)["precision"] == "fp32"


def test_calls_that_alternate_pack_once_each() -> None:
    model = random_model(tiny_config())
    encoder = model.encoder
    assert encoder.packed_weights_autocast is None  # not before it is needed
    output_of(model, BF16)
    plain, under_autocast = encoder.packed_weights, encoder.packed_weights_autocast
    assert under_autocast is not None
    for autocast in (None, BF16, FP16, BF16, None):
        output_of(model, autocast)
    assert encoder.packed_weights is plain
    assert encoder.packed_weights_autocast is under_autocast
    state = bert_op.explain(model)
    assert state["packed_bytes"] == plain.numel() + under_autocast.numel()


def test_model_in_bf16_needs_no_second_packing_for_autocast() -> None:
    model = random_model(tiny_config()).to(BF16)
    plain = output_of(model)
    assert torch.equal(output_of(model, BF16), plain)
    assert model.encoder.packed_weights_autocast is None


def test_both_packings_follow_the_weights() -> None:
    model = random_model(tiny_config())
    output_of(model, BF16)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[3, 5] += 1.0
    for autocast, precision in ((BF16, "bf16"), (None, "fp32")):
        assert torch.equal(output_of(model, autocast), chosen(model, precision))
    output_of(model, BF16)
    model.train()
    assert model.encoder.packed_weights_autocast is None


def test_calls_from_several_threads_each_have_their_own_autocast() -> None:
    model = random_model(tiny_config())
    expected = {autocast: output_of(model, autocast) for autocast in (None, BF16)}
    for _ in range(5):
        model.encoder._drop()  # so that the threads also meet while packing
        with ThreadPoolExecutor(4) as pool:
            kinds = [None, BF16, BF16, None] * 4
            for autocast, output in zip(
                kinds, pool.map(lambda kind: output_of(model, kind), kinds), strict=True
            ):
                assert torch.equal(output, expected[autocast])


def _write_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.to(BF16)


def _assign(model: Any) -> None:
    model.load_state_dict({name: value.to(BF16) for name, value in model.state_dict().items()}, assign=True)


def _part_by_part(model: Any) -> None:
    for part in (model.embeddings, *model.encoder.layer, model.pooler):
        part.to(BF16)


@pytest.mark.parametrize("change", [lambda model: model.to(BF16), _write_data, _assign, _part_by_part])
def test_a_change_of_dtype_is_followed(change: Callable[[Any], Any]) -> None:
    model = random_model(tiny_config())
    output_of(model)
    change(model)
    assert torch.equal(output_of(model), chosen(model, "bf16"))
    assert runs_in(model) == "bf16"
    model.float()
    assert torch.equal(output_of(model), chosen(model, "fp32"))
    assert runs_in(model) == "fp32"


def test_mixed_models_run_in_the_wider_dtype_of_their_matrices() -> None:
    model = random_model(tiny_config()).to(BF16)
    assert runs_in(_norms_in_fp32(model)) == "bf16"
    for matrix in ("layer.0.attention.self.key", "layer.1.output.dense"):
        module = model.encoder.get_submodule(matrix).float()
        assert runs_in(model) == "fp32"
        module.to(BF16)
        assert runs_in(model) == "bf16"


@pytest.mark.parametrize(("dtype", "expected"), [(BF16, "bf16"), (FP16, "fp32"), (FP32, "fp32")])
def test_a_checkpoint_says_nothing_and_is_followed(tmp_path: Any, dtype: torch.dtype, expected: str) -> None:
    random_model(tiny_config()).to(dtype).save_pretrained(tmp_path)
    assert "bert_op" not in (tmp_path / "config.json").read_text()
    assert runs_in(BertModel.from_pretrained(tmp_path)) == expected  # in the dtype in which it was saved
    assert runs_in(BertModel.from_pretrained(tmp_path, dtype=BF16)) == "bf16"
    assert runs_in(BertModel.from_pretrained(tmp_path, dtype=FP32)) == "fp32"


CHOICES: list[tuple[str, Callable[[], Any]]] = [
    ("using", lambda: _made_using("fp32")),
    ("config.use_bfloat16", lambda: random_model(tiny_config(use_bfloat16=False))),
    ("config.use_quantization", lambda: random_model(tiny_config(use_quantization=False))),
    ("config.bert_op", lambda: random_model(tiny_config(bert_op={"precision": "fp32"}))),
    ("optimize", lambda: bert_op.optimize(random_model(tiny_config()), "fp32", skip_padding=False)),
]


def _made_using(precision: str) -> Any:
    with bert_op.using(precision=precision):
        return random_model(tiny_config())


@pytest.mark.parametrize("make", [make for _, make in CHOICES], ids=[name for name, _ in CHOICES])
def test_a_choice_is_not_changed_by_dtype_or_autocast(make: Callable[[], Any]) -> None:
    model = make()
    plain = output_of(model)
    assert torch.equal(output_of(model, BF16), plain)
    assert model.encoder.packed_weights_autocast is None
    model.to(BF16)
    assert runs_in(model) == "fp32"
    with torch.autocast("cpu", dtype=BF16):
        assert bert_op.explain(model)["precision"] == "fp32"


def test_bf16_chosen_for_an_fp32_model_stays_under_fp16_autocast() -> None:
    model = _made_using("bf16")
    assert torch.equal(output_of(model, FP16), output_of(model))
    assert model.encoder.packed_weights_autocast is None


def test_environment_and_configure_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bert_op.explain()["precision"] == "follows the model"
    assert _policy._from_environment({"BERT_OP_PRECISION": ""}).precision is None
    monkeypatch.setattr(_policy, "_default", _policy._from_environment({"BERT_OP_PRECISION": "fp32"}))
    assert bert_op.explain()["precision"] == "fp32"
    assert runs_in(random_model(tiny_config()).to(BF16)) == "fp32"
    bert_op.configure(precision="bf16_qint8")
    assert bert_op.explain()["precision"] == "bf16_qint8"
    assert runs_in(random_model(tiny_config()).to(BF16)) == "bf16_qint8"


def test_optimize_without_a_precision_keeps_its_own_default() -> None:
    for dtype in (FP32, BF16):
        assert (
            bert_op.optimize(random_model(tiny_config()).to(dtype)).encoder.op_policy.precision
            == "bf16_qint8"
        )


def test_nobody_chose_is_a_value_of_the_policy() -> None:
    assert current_policy() == Policy(precision=None)
    assert policy_of_config(tiny_config(), Policy()).precision is None
    assert policy_of_config(tiny_config(bert_op={"skip_padding": True}), Policy()).precision is None
    assert policy_of_config(tiny_config(use_quantization=True), Policy()).precision == "fp32_qint8"
    assert not Policy().quantized


def test_explain_of_what_the_operator_does_not_run() -> None:
    model = random_model(tiny_config())
    model.train()
    assert bert_op.explain(model)["precision"] == "follows the model"


def test_error_of_each_layer_is_of_the_precision_that_ran() -> None:
    model = random_model(tiny_config())
    plain = [layer["error"]["relative_error"] for layer in bert_op.explain(model, random_batch())["layers"]]
    assert plain == [0, 0]
    with torch.autocast("cpu", dtype=BF16):
        state = bert_op.explain(model, random_batch())
    assert all(0 < layer["error"]["relative_error"] < 0.02 for layer in state["layers"])


def test_copies_follow_too_and_restore_leaves_nothing_behind() -> None:
    model = random_model(tiny_config())
    expected = {autocast: output_of(model, autocast) for autocast in (None, BF16)}
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert clone.encoder.packed_weights_autocast is None
        for autocast, output in expected.items():
            assert torch.equal(output_of(clone, autocast), output)
        assert clone.encoder.packed_weights_autocast is not model.encoder.packed_weights_autocast
    bert_op.restore(model)
    assert not [name for name in model.encoder._buffers if name.startswith("packed")]


class Hidden(nn.Module):
    """A model as recorders take it: tensors in, a tensor out; it may enter autocast itself."""

    def __init__(self, model: Any, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if self.autocast is None:
            return self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        with torch.autocast("cpu", dtype=self.autocast):
            return self.model(input_ids, attention_mask=attention_mask).last_hidden_state


def _trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return torch.jit.freeze(torch.jit.trace(module, inputs))


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return torch.export.export(module, inputs).module()


def _export_strictly(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return torch.export.export(module, inputs, strict=True).module()


@pytest.mark.parametrize("record", [_trace, _export, _export_strictly])
def test_a_graph_recorded_under_autocast_computes_what_the_model_does(record: Callable[..., Any]) -> None:
    model = random_model(tiny_config())
    inputs = tuple(random_batch().values())
    for _ in range(2):  # before the first call under autocast, and after it
        with torch.no_grad(), torch.autocast("cpu", dtype=BF16, cache_enabled=False):
            graph = record(Hidden(model).eval(), inputs)
        expected = output_of(model, BF16)
        with torch.no_grad():
            assert torch.equal(graph(*inputs), expected)  # also where autocast is off
    assert torch.equal(expected, chosen(model, "bf16"))
    assert torch.equal(output_of(model), chosen(model, "fp32"))
    assert bert_op.explain(model)["fallbacks"] == []


@pytest.mark.parametrize("record", [_trace, _export, _export_strictly])
def test_a_model_that_enters_autocast_itself_is_recorded_in_bf16(record: Callable[..., Any]) -> None:
    model = random_model(tiny_config())
    inputs = tuple(random_batch().values())
    with torch.no_grad():
        graph = record(Hidden(model, BF16).eval(), inputs)
        assert torch.equal(graph(*inputs), output_of(model, BF16))


def test_a_compiled_model_is_recorded_once_with_and_once_without_autocast() -> None:
    model = random_model(tiny_config())
    inputs = tuple(random_batch().values())
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = torch.compile(Hidden(model).eval(), fullgraph=True, backend="eager")
    with torch.no_grad():
        for autocast in (BF16, None, BF16, None):
            expected = output_of(copy.deepcopy(model), autocast)
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                assert torch.equal(compiled(*inputs), expected)
        assert counters["stats"]["unique_graphs"] == 2
        model.load_state_dict(random_model(tiny_config(), seed=3).state_dict())
        for autocast in (BF16, None):
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                assert torch.equal(compiled(*inputs), output_of(copy.deepcopy(model), autocast))
        model.to(BF16)
        for autocast in (BF16, None):
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                assert torch.equal(compiled(*inputs), chosen(model, "bf16"))
