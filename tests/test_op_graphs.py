"""The op in recorded graphs: traced, frozen, exported, compiled, and used without `bert_op`."""

from __future__ import annotations

import json
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


def inputs_of(shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = random_batch(*shape)
    return batch["input_ids"], batch["attention_mask"]


def test_trace_freeze_save_and_load_in_another_process(tmp_path: Path) -> None:
    module, reference = logits_pair()
    bert_op.optimize(module, "fp32")
    traced = torch.jit.trace(module, inputs_of((2, 8)))  # gradients enabled: what is traced is for inference
    frozen = torch.jit.freeze(traced)
    assert str(frozen.inlined_graph).count("bert_op::encoder") == 1
    assert "prepack" not in str(frozen.inlined_graph)
    with torch.no_grad():
        expected = [reference(*inputs_of(shape)) for shape in SHAPES]
        for shape, value in zip(SHAPES, expected, strict=True):
            torch.testing.assert_close(frozen(*inputs_of(shape)), value, atol=TOLERANCE, rtol=TOLERANCE)
    frozen.save(tmp_path / "model.pt")
    torch.save([inputs_of(shape) for shape in SHAPES], tmp_path / "inputs.pt")
    program = (
        "import json, sys, torch; torch.ops.load_library(sys.argv[1]); model = torch.jit.load(sys.argv[2])\n"
        "print(json.dumps([model(*inputs).tolist() for inputs in torch.load(sys.argv[3])]))\n"
        "assert 'bert_op' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    arguments = [str(library_path()), str(tmp_path / "model.pt"), str(tmp_path / "inputs.pt")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for found, value in zip(json.loads(result.stdout), expected, strict=True):
        torch.testing.assert_close(torch.tensor(found), value, atol=TOLERANCE, rtol=TOLERANCE)


def test_packing_while_tracing_is_not_recorded() -> None:
    module = Logits(random_model(tiny_config(), BertForSequenceClassification)).eval()
    module.model.bert.encoder._drop()
    traced = torch.jit.trace(module, inputs_of((2, 8)), check_trace=False)
    graph = str(traced.inlined_graph)
    assert "bert_op::encoder" in graph
    assert "prepack" not in graph
    assert "aten::equal" not in graph


def test_export_with_dynamic_batch_and_length(tmp_path: Path) -> None:
    module, reference = logits_pair()
    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("seq_len", min=1, max=512)}
    program = torch.export.export(module, inputs_of((3, 8)), dynamic_shapes=(dims, dims))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("bert_op.encoder.default") == 1
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        for shape in SHAPES:
            inputs = inputs_of(shape)
            torch.testing.assert_close(loaded(*inputs), reference(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
    assert bert_op.explain(module)["fallbacks"] == []


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile_without_graph_breaks(backend: str) -> None:
    module, reference = logits_pair()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=True)
    with torch.no_grad():
        for shape in SHAPES[:3]:
            inputs = inputs_of(shape)
            torch.testing.assert_close(compiled(*inputs), reference(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
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
