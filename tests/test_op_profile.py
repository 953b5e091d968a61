"""Where the time of a forward pass goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import bert_op
import pytest
import torch
from bert_op._profile import OUTSIDE, REST, Profile
from op_models import hugging_face, random_batch, random_model, tiny_config
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

PHASES = [
    "gather",
    "qkv",
    "attention",
    "attention_output",
    "attention_norm",
    "intermediate",
    "output",
    "output_norm",
    REST,
    OUTSIDE,
]
BATCH, SEQ_LEN = 3, 16
INPUTS = {"input_ids": torch.ones(BATCH, SEQ_LEN, dtype=torch.long)}


class Logits(nn.Module):
    """A model as `jit.trace` takes it, that counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = random_model(tiny_config(), BertForSequenceClassification)
        self.passes = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        self.passes += 1
        return self.model(input_ids).logits


class Pair(nn.Module):
    """Two encoders; the second runs in a thread of its own if asked for."""

    def __init__(self, own_thread: bool) -> None:
        super().__init__()
        self.first = random_model(tiny_config())
        self.second = random_model(tiny_config(), seed=1)
        self.own_thread = own_thread

    def forward(self, input_ids: Tensor) -> Any:
        self.first(input_ids)
        if not self.own_thread:
            return self.second(input_ids)
        thread = threading.Thread(target=in_inference_mode, args=(self.second, input_ids))
        thread.start()
        return thread.join()


def in_inference_mode(model: nn.Module, input_ids: Tensor) -> None:
    with torch.inference_mode():
        model(input_ids)


def operations_of(config: BertConfig) -> dict[str, float]:
    layers, hidden, rows = config.num_hidden_layers, config.hidden_size, BATCH * SEQ_LEN
    linear = layers * rows * hidden
    return {
        "qkv": 6 * linear * hidden,
        "attention": 4 * linear * SEQ_LEN,
        "attention_output": 2 * linear * hidden,
        "intermediate": 2 * linear * config.intermediate_size,
        "output": 2 * linear * config.intermediate_size,
    }


def check(found: Profile, encoders: int = 1, config: BertConfig | None = None) -> None:
    """Parts add up to the mean of the faster passes, and the operations are those asked for."""
    assert [row.phase for row in found.phases] == PHASES
    assert all(row.seconds >= 0 for row in found.phases)
    assert sum(row.seconds for row in found.phases) == pytest.approx(found.seconds, rel=1e-9)
    assert sum(row.share for row in found.phases) == pytest.approx(1, rel=1e-9)
    faster = sorted(found.passes)[: (len(found.passes) + 1) // 2]
    assert found.seconds == pytest.approx(sum(faster) / len(faster), rel=1e-12)
    assert found.phases[-1].seconds > 0
    expected = operations_of(config or tiny_config())
    operations = {row.phase: row.operations for row in found.phases if row.operations}
    assert operations == {phase: encoders * count for phase, count in expected.items()}


def test_parts_are_of_the_passes_that_are_timed_and_add_up() -> None:
    model = Logits()
    for repeats in (1, 2, 5):
        model.passes = 0
        found = bert_op.profile(model, INPUTS, repeats=repeats, warmup=3)
        assert model.passes == 3 + repeats
        assert len(found.passes) == repeats
        check(found)


def test_table_says_what_it_is_of() -> None:
    model = bert_op.optimize(random_model(tiny_config()), "bf16_qint8")
    inputs = {**random_batch(BATCH, SEQ_LEN), "inputs_embeds": None}
    found = bert_op.profile(model, inputs, repeats=3)
    state = bert_op.explain()
    assert (found.isa, found.threads) == (state["isa"], state["threads"])
    assert found.shapes == ((BATCH, SEQ_LEN),)
    first, second, header, *rows = str(found).splitlines()
    for part in ("bf16_qint8", state["isa"], f"threads: {state['threads']}", f"{BATCH} x {SEQ_LEN}"):
        assert part in first
    assert second.startswith("mean of the faster 2 of 3 forward passes; all: ")
    assert header.split() == ["phase", "ms", "T/s", "share"]
    assert [row[:18].strip() for row in rows] == [*PHASES, "forward pass"]
    assert len(rows[0].split()) == 3  # no rate where there are no products
    assert len(rows[1].split()) == 4


def traced(module: nn.Module) -> Any:
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(module, INPUTS["input_ids"]))


def compiled(module: nn.Module) -> Any:
    return torch.compile(module.model, backend="eager", fullgraph=True)


def exported(module: nn.Module) -> Any:
    return torch.export.export(module, (), INPUTS).module()


@pytest.mark.parametrize("form", [traced, compiled, exported])
def test_recorded_models_have_a_profile(form: Callable[[nn.Module], Any]) -> None:
    check(bert_op.profile(form(Logits().eval()), INPUTS, repeats=3))


@pytest.mark.parametrize("inputs", [INPUTS["input_ids"], (INPUTS["input_ids"],), [INPUTS["input_ids"], None]])
def test_inputs_by_position(inputs: Any) -> None:
    found = bert_op.profile(random_model(tiny_config()), inputs, repeats=1)
    check(found)
    assert found.shapes == ((BATCH, SEQ_LEN),)


def test_all_segments_count() -> None:
    config = tiny_config(num_hidden_layers=4)
    model = bert_op.optimize(random_model(config), "bf16_qint8", keep_layers=[1, 2])
    found = bert_op.profile(model, INPUTS, repeats=3)
    check(found, config=config)
    assert found.precisions == ("bf16_qint8", "bf16")
    assert str(found).startswith("bf16_qint8 and bf16 on ")


def test_all_encoders_count() -> None:
    model = Pair(own_thread=False)
    bert_op.optimize(model.second, "bf16")
    found = bert_op.profile(model, INPUTS, repeats=3)
    check(found, encoders=2)
    assert found.precisions == ("fp32", "bf16")


def test_calls_of_other_threads_are_not_recorded() -> None:
    check(bert_op.profile(Pair(own_thread=True), INPUTS, repeats=3), encoders=1)


def test_a_model_without_the_op_has_no_profile() -> None:
    with hugging_face():
        model = BertModel(tiny_config()).eval()
    with pytest.raises(ValueError, match="explain"):
        bert_op.profile(model, INPUTS)
    assert not recording()


def test_a_model_that_raises_leaves_no_recording() -> None:
    model = random_model(tiny_config())

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.pooler.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        bert_op.profile(model, INPUTS, warmup=0)
    assert not recording()
    hook.remove()
    check(bert_op.profile(model, INPUTS, repeats=1))


def test_a_model_that_profiles_itself_is_refused() -> None:
    model = random_model(tiny_config())
    model.pooler.register_forward_hook(lambda *_: bert_op.profile(model.embeddings, INPUTS, warmup=0))
    with pytest.raises(RuntimeError, match="profiled already"):
        bert_op.profile(model, INPUTS, warmup=0)
    assert not recording()


def test_recording_changes_no_result_and_keeps_calls_that_finished() -> None:
    hidden, packed = torch.randn(2, 5, 64), [random_model(tiny_config()).encoder.packed_weights]
    expected = torch.ops.bert_op.encoder(hidden, None, packed)
    torch.ops.bert_op.start_profile()
    try:
        assert torch.equal(torch.ops.bert_op.encoder(hidden, None, packed), expected)
        with pytest.raises(RuntimeError, match="hidden_size"):
            torch.ops.bert_op.encoder(torch.randn(2, 5, 96), None, packed)
        torch.ops.bert_op.encoder(torch.randn(0, 5, 64), None, packed)
    finally:
        record = json.loads(torch.ops.bert_op.stop_profile())
    assert record["calls"] == 2
    assert record["precisions"] == ["fp32"]
    assert 0 < sum(row["seconds"] for row in record["phases"]) <= record["seconds"]


def recording() -> bool:
    """Whether a recording was left behind; ends it."""
    try:
        torch.ops.bert_op.stop_profile()
    except RuntimeError as error:
        assert "not being profiled" in str(error)
        return False
    return True


@pytest.mark.parametrize("repeats", [0, -1])
def test_no_passes_are_no_profile(repeats: int) -> None:
    with pytest.raises(ValueError, match="repeats"):
        bert_op.profile(random_model(tiny_config()), INPUTS, repeats=repeats)
