"""The op in recorded graphs: traced, frozen, exported, compiled, and used without `bert_op`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from bert_op._library import library_path
from op_models import model_pair, random_batch, random_model, tiny_config
from torch import nn
from transformers import BertForSequenceClassification

TOLERANCE = 2e-5
SHAPES = [(2, 8), (1, 3), (5, 40), (2, 1)]

# The recorded forms need the compiled library and nothing else of this project.
ELSEWHERE = """
import sys, torch
from pathlib import Path

torch.ops.load_library(sys.argv[1])
folder = Path(sys.argv[2])
models = {"frozen": torch.jit.load(folder / "frozen.pt")}
models["exported"] = torch.export.load(folder / "exported.pt2").module()
if (folder / "aoti.pt2").exists():
    models["aoti"] = torch._inductor.aoti_load_package(str(folder / "aoti.pt2"))
inputs = torch.load(folder / "inputs.pt")
with torch.no_grad():
    for model in models.values():  # TorchScript optimizes in the first calls and runs the result later
        for _ in range(3):
            model(*inputs[0])
    outputs = {form: [model(*example) for example in inputs] for form, model in models.items()}
    assert "bert_op" not in sys.modules and "transformers" not in sys.modules
    whole = torch.load(folder / "whole.pt", weights_only=False)
    outputs["whole"] = [whole(ids, attention_mask=mask).logits for ids, mask in inputs]
torch.save(outputs, folder / "outputs.pt")
"""


class Logits(nn.Module):
    """A model as `jit.trace` takes it: tensors in, a tensor out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, attention_mask=attention_mask).logits


def logits_pair() -> tuple[Logits, Logits]:
    model, reference = model_pair(tiny_config(), BertForSequenceClassification)
    return Logits(model).eval(), Logits(reference).eval()


def no_inductor() -> str:
    """Why torch cannot compile here; empty if it can."""
    if " " in torch.__file__:
        return f"inductor quotes no paths, and torch lies in {Path(torch.__file__).parent}"
    return "" if shutil.which("g++") else "inductor needs g++"


def inputs_of(shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = random_batch(*shape)
    return batch["input_ids"], batch["attention_mask"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[torch.Tensor]]:
    """What the recorded forms of one model give in another process, for inputs of `SHAPES`; `eager` and
    `hugging face` are of this process."""
    folder = tmp_path_factory.mktemp("graphs")
    module, reference = logits_pair()
    bert_op.optimize(module, "bf16_qint8", keep_layers=[1])
    traced = torch.jit.trace(module, inputs_of((2, 8)))  # gradients enabled: what is traced is for inference
    frozen = torch.jit.freeze(traced)
    graph = str(frozen.inlined_graph)
    assert (graph.count("bert_op::encoder"), graph.count("bert_op::prepack")) == (1, 0)
    frozen.save(folder / "frozen.pt")
    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("seq_len", min=1, max=512)}
    program = torch.export.export(module, inputs_of((3, 8)), dynamic_shapes=(dims, dims))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("bert_op.encoder.default") == 1
    torch.export.save(program, folder / "exported.pt2")
    if not no_inductor():
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(folder / "aoti.pt2"),
                inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
            )
    torch.save(module.model, folder / "whole.pt")
    inputs = [inputs_of(shape) for shape in SHAPES]
    torch.save(inputs, folder / "inputs.pt")
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(library_path()), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    outputs: dict[str, list[torch.Tensor]] = torch.load(folder / "outputs.pt")
    with torch.no_grad():
        outputs["eager"] = [module(*example) for example in inputs]
        outputs["hugging face"] = [reference(*example) for example in inputs]
    assert bert_op.explain(module)["fallbacks"] == []
    return outputs


@pytest.mark.parametrize("form", ["frozen", "exported", "whole"])
def test_recorded_model_gives_bitwise_the_same_in_another_process(
    form: str, elsewhere: dict[str, list[torch.Tensor]]
) -> None:
    for found, expected in zip(elsewhere[form], elsewhere["eager"], strict=True):
        assert torch.equal(found, expected)


def test_aot_inductor_package_in_another_process(elsewhere: dict[str, list[torch.Tensor]]) -> None:
    if "aoti" not in elsewhere:
        pytest.skip(no_inductor())
    # Inductor generates the embeddings and the head anew, so only the op in their middle is the same.
    for found, expected in zip(elsewhere["aoti"], elsewhere["eager"], strict=True):
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


def test_that_model_is_close_to_hugging_face(elsewhere: dict[str, list[torch.Tensor]]) -> None:
    for found, expected in zip(elsewhere["eager"], elsewhere["hugging face"], strict=True):
        assert (found - expected).norm() < 0.1 * expected.norm()


def test_packing_while_tracing_is_not_recorded() -> None:
    module = Logits(random_model(tiny_config(), BertForSequenceClassification)).eval()
    module.model.bert.encoder._drop()
    traced = torch.jit.trace(module, inputs_of((2, 8)), check_trace=False)
    graph = str(traced.inlined_graph)
    assert "bert_op::encoder" in graph
    assert "prepack" not in graph
    assert "aten::equal" not in graph


@pytest.mark.skipif(no_inductor() != "", reason=no_inductor() or "it can")
def test_compile_without_graph_breaks() -> None:
    module, reference = logits_pair()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in SHAPES[:3]:
            inputs = inputs_of(shape)
            torch.testing.assert_close(compiled(*inputs), reference(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
    assert bert_op.explain(module)["fallbacks"] == []


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_model_is_recorded_once_for_all_lengths(dynamic: bool | None) -> None:
    module, _ = logits_pair()
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = torch.compile(module, backend="eager", dynamic=dynamic)
    with torch.no_grad():
        for shape in SHAPES[:1] if dynamic else [(2, 8), (3, 9)]:  # by default the second call finds it out
            compiled(*inputs_of(shape))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for shape in [(5, 40), (2, 17), (4, 130), (16, 3)]:
                assert torch.equal(compiled(*inputs_of(shape)), module(*inputs_of(shape)))
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == (1 if dynamic else 2)
    assert bert_op.explain(module)["fallbacks"] == []


def test_compiled_graph_contains_the_op_and_follows_loaded_weights() -> None:
    module, _ = logits_pair()
    graphs: list[str] = []

    def record(graph_module: torch.fx.GraphModule, example_inputs: Any) -> Any:
        graphs.append(graph_module.code)
        return graph_module.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend=record)
    with torch.no_grad():
        before = compiled(*inputs_of((2, 8)))
        assert "bert_op.encoder" in graphs[0]
        other = random_model(tiny_config(), BertForSequenceClassification, seed=4)
        module.model.load_state_dict(other.state_dict())
        after = compiled(*inputs_of((2, 8)))
        expected = Logits(other)(*inputs_of((2, 8)))
    assert not torch.allclose(before, after, atol=1e-2)
    torch.testing.assert_close(after, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_compiled_model_takes_the_original_path_where_it_has_to() -> None:
    module, reference = logits_pair()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    inputs = inputs_of((2, 8))
    with pytest.warns(bert_op.BertOpWarning, match="gradients may be asked for"):
        compiled(*inputs).sum().backward()
    reference(*inputs).sum().backward()
    for parameter, expected in zip(module.parameters(), reference.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad)
    assert [fallback["encoder"] for fallback in bert_op.explain(module)["fallbacks"]] == [
        "model.bert.encoder"
    ]


def test_exported_in_training_mode_is_the_original_path() -> None:
    module, _ = logits_pair()
    module.train()
    with pytest.warns(bert_op.BertOpWarning, match="exported in training mode"):
        program = torch.export.export(module, inputs_of((3, 8)))
    assert "bert_op" not in str(program.graph)


def test_a_backward_pass_through_the_operator_itself_raises() -> None:
    encoder = random_model(tiny_config()).encoder
    encoder.pack_early()
    hidden_states = torch.randn(1, 4, encoder.config.hidden_size, requires_grad=True)
    output = torch.ops.bert_op.encoder(hidden_states, None, [encoder.packed_weights])
    with pytest.raises(RuntimeError, match="not implemented"):
        output.sum().backward()
