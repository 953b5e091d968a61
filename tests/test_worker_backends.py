"""Backends and graphs: the same result in every form, the reference untouched, no op that did not run."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from worker_tools import ARCHITECTURE, WORDS, make_checkpoint, path_model, run_spec

from harness.values.errors import UserError
from harness.values.spec import BackendSpec, ModelSpec, RunSpec
from harness.worker import backends
from harness.worker.backends import hf, op
from harness.worker.backends.common import Work
from harness.worker.tokens import Batch, random_batch

pytestmark = pytest.mark.usefixtures("hugging_face_as_it_is")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(checkpoint: Path) -> transformers.PreTrainedModel:
    return transformers.BertForSequenceClassification.from_pretrained(checkpoint).eval()


def batch(rows: int, seq_len: int, padding: int = 0) -> Batch:
    return random_batch(len(WORDS), [seq_len - padding, *[seq_len] * (rows - 1)], seq_len, seed=5)


def spec(name: str = "hf", graph: str = "eager", precision: str = "fp32") -> RunSpec:
    return run_spec(ModelSpec("tiny"), backend=BackendSpec(name, graph), precision=precision)


@pytest.mark.parametrize("graph", ["eager", "jit", "export"])
@pytest.mark.parametrize("captured_at", [(2, 8), (1, 1)])
def test_a_graph_serves_every_shape(
    model: transformers.PreTrainedModel, graph: str, captured_at: tuple[int, int]
) -> None:
    reference = backends.reference_of(model)
    runner = backends.prepare(model, spec(graph=graph), batch(*captured_at))
    with torch.inference_mode():
        for rows, seq_len, padding in [(2, 8, 0), (3, 11, 4), (1, 1, 0), (1, 40, 39)]:
            inputs = batch(rows, seq_len, padding).inputs
            torch.testing.assert_close(runner.call(*inputs), reference(*inputs), rtol=0, atol=1e-5)


def test_compile_gives_the_same_result(
    model: transformers.PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def without_a_compiler(head: torch.nn.Module) -> Callable[..., torch.Tensor]:
        compiled.append(head)
        return torch._dynamo.optimize("eager")(head)

    # Inductor takes half a minute; what it does to the graph is not ours to test.
    monkeypatch.setattr(torch, "compile", without_a_compiler)
    reference = backends.reference_of(model)
    runner = backends.prepare(model, spec(graph="compile"), batch(2, 8))
    with torch.inference_mode():
        inputs = batch(2, 8, padding=3).inputs
        torch.testing.assert_close(runner.call(*inputs), reference(*inputs))
    assert len(compiled) == 1


def test_bf16_converts_the_model_and_not_the_reference(model: transformers.PreTrainedModel) -> None:
    reference = backends.reference_of(model)
    inputs = batch(2, 8).inputs
    with torch.inference_mode():
        before = reference(*inputs)
        runner = backends.prepare(model, spec(precision="bf16"), batch(2, 8))
        assert runner.call(*inputs).dtype == torch.bfloat16
        assert torch.equal(reference(*inputs), before)


def test_the_reference_shares_the_weights(model: transformers.PreTrainedModel) -> None:
    reference = backends.reference_of(model)
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    assert all(one.data_ptr() == two.data_ptr() and one is not two for one, two in pairs)


def test_dynamic_int8_replaces_the_linear_layers_and_not_the_reference(
    model: transformers.PreTrainedModel,
) -> None:
    reference = backends.reference_of(model)
    inputs = batch(2, 8, padding=3).inputs
    with torch.inference_mode():
        before = reference(*inputs)
        runner = backends.prepare(model, spec(graph="jit", precision="fp32_qint8"), batch(2, 8))
        torch.testing.assert_close(runner.call(*inputs), before, rtol=0, atol=0.3)
        assert not torch.equal(runner.call(*inputs), before)
        assert torch.equal(reference(*inputs), before)
    assert not any(type(module) is torch.nn.Linear for module in model.modules())
    assert runner.facts["quantized_engine"] == torch.backends.quantized.engine


def test_hugging_face_has_no_int8_beside_bf16(model: transformers.PreTrainedModel) -> None:
    work = Work(model, "bf16_qint8", "eager", False, batch(2, 8), (batch(2, 8),), 1)
    with pytest.raises(UserError, match="no int8 beside bf16"):
        hf.prepare(work)


def test_max_autotune_folds_the_weights(
    model: transformers.PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    asked: list[Any] = []
    monkeypatch.setattr(inductor, "freezing", False)
    monkeypatch.setattr(torch, "compile", lambda head, mode: asked.append((mode, inductor.freezing)) or head)
    backends.prepare(model, spec(graph="max-autotune"), batch(2, 8))
    assert asked == [("max-autotune", True)]


def test_a_model_without_a_head_gives_hidden_states() -> None:
    model = transformers.BertModel(transformers.BertConfig(**ARCHITECTURE)).eval()
    runner = backends.prepare(model, spec(graph="jit"), batch(2, 8))
    with torch.inference_mode():
        assert runner.call(*batch(3, 5).inputs).shape == (3, 5, ARCHITECTURE["hidden_size"])


@pytest.fixture
def fake_op(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A bert_op that converts nothing, as when everything fell back."""
    module = types.ModuleType("bert_op")
    module.fallbacks = []  # type: ignore[attr-defined]
    module.calls = []  # type: ignore[attr-defined]
    module.optimize = lambda model, **options: module.calls.append(options)  # type: ignore[attr-defined]
    module.explain = lambda model=None: {"fallbacks": module.fallbacks}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bert_op", module)
    return module


@pytest.mark.parametrize("graph", ["eager", "jit", "export"])
@pytest.mark.parametrize("reasons", [[], [{"encoder": "bert.encoder", "reason": "the activation is silu"}]])
def test_an_op_that_did_not_run_is_no_result(
    model: transformers.PreTrainedModel, fake_op: Any, graph: str, reasons: list[dict[str, str]]
) -> None:
    fake_op.fallbacks = reasons
    wanted = spec("op", graph)
    runner = backends.prepare(model, wanted, batch(2, 8))
    error, told = (UserError, "silu") if reasons else (RuntimeError, "nothing")
    with pytest.raises(error, match=told):
        backends.check_op_runs(runner, wanted, batch(2, 8))


def test_the_op_gets_precision_and_padding(model: transformers.PreTrainedModel, fake_op: Any) -> None:
    wanted = run_spec(
        ModelSpec("tiny"), backend=BackendSpec("op", "eager", skip_padding=True), precision="bf16_qint8"
    )
    backends.prepare(model, wanted, batch(2, 8))
    assert fake_op.calls == [{"precision": "bf16_qint8", "skip_padding": True}]


def test_other_backends_have_nothing_to_explain(model: transformers.PreTrainedModel) -> None:
    runner = backends.prepare(model, spec(), batch(2, 8))
    assert backends.check_op_runs(runner, spec(), batch(2, 8)) == {}


def refuse_import(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    """Makes `import bert_op` raise `error`, wherever the package may be installed."""

    class Refusing:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == "bert_op":
                raise error

    monkeypatch.delitem(sys.modules, "bert_op", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing, *sys.meta_path])


@pytest.mark.parametrize(
    ("environment", "message", "told"),
    [
        (
            {"BERT_OP_PT_LIB": "no.so"},
            "BERT_OP_PT_LIB=no.so does not exist. Build it.",
            "BERT_OP_PT_LIB='no.so': does not exist. Build it.",
        ),
        (
            {"BERT_OP_MAX_ISA": "amx", "BERT_OP_PT_LIB": "fine.so"},
            "BERT_OP_MAX_ISA='amx' cannot be used: no AMX here",
            "BERT_OP_MAX_ISA='amx': cannot be used: no AMX here. Correct or unset BERT_OP_MAX_ISA.",
        ),
        (
            {},
            "The library was built against torch 2.9.",
            "backend='op': bert_op cannot be used: The library was built against torch 2.9. "
            "Build it again, or use backend=hf.",
        ),
    ],
)
def test_a_library_that_cannot_be_used_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str, told: str
) -> None:
    refuse_import(monkeypatch, ImportError(message))
    for name in op.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        backends.import_op()
    assert str(caught.value) == told


def test_an_op_that_is_not_installed_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_import(monkeypatch, ModuleNotFoundError("No module named 'bert_op'", name="bert_op"))
    with pytest.raises(UserError, match="not installed"):
        backends.import_op()


def test_the_loader_of_checkpoints_fits(checkpoint: Path) -> None:
    from harness.worker import weights

    loaded = weights.load(path_model(checkpoint), 0)
    runner = backends.prepare(loaded.model, spec(graph="jit"), batch(2, 8))
    with torch.inference_mode():
        assert runner.call(*batch(2, 8).inputs).shape == (2, 2)
