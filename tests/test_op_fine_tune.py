"""Fine-tune, then serve: training runs Hugging Face's own path, then the op sees the new weights."""

from __future__ import annotations

import copy
from typing import Any

import bert_op
import pytest
import torch
from op_models import hugging_face, model_pair, random_batch, random_model, runs_op, tiny_config
from torch.nn.utils import prune
from transformers import BertForMaskedLM, BertForSequenceClassification

TOLERANCE = 2e-5
LABELS = torch.tensor([0, 1, 0])


def train(model: Any, optimizer_class: Any, **options: Any) -> list[float]:
    """Three steps without dropout; the losses."""
    optimizer = optimizer_class(model.parameters(), lr=1e-2, **options)
    losses = []
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**random_batch(), labels=LABELS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**random_batch()).logits


def assert_serves_its_weights(model: Any) -> None:
    """The op runs, by the weights that the model has now."""
    with hugging_face():
        reference = type(model)(model.config).eval()
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(model), logits(reference), atol=TOLERANCE, rtol=TOLERANCE)
    assert runs_op(model.bert.encoder)


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [(torch.optim.SGD, {}), (torch.optim.AdamW, {"foreach": True}), (torch.optim.AdamW, {"fused": True})],
)
def test_training_is_that_of_the_original_and_the_op_serves_the_result(
    optimizer_class: Any, options: dict[str, Any]
) -> None:
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model, reference = model_pair(config, BertForSequenceClassification)
    before = logits(model)
    with pytest.warns(bert_op.BertOpWarning, match="training mode"):
        losses = train(model, optimizer_class, **options)
    assert losses == pytest.approx(train(reference, optimizer_class, **options), rel=1e-6)
    assert losses[-1] < losses[0]
    assert not torch.allclose(logits(model), before, atol=1e-2)
    torch.testing.assert_close(logits(model), logits(reference), atol=TOLERANCE, rtol=TOLERANCE)
    assert_serves_its_weights(model)


@pytest.mark.parametrize("fused", [False, True])
def test_optimizer_steps_in_evaluation_mode_are_seen(fused: bool) -> None:
    model = random_model(tiny_config(), BertForSequenceClassification)
    before = logits(model)
    with pytest.warns(bert_op.BertOpWarning, match="gradients"):
        model(**random_batch(), labels=LABELS).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused).step()  # fused ones raise no version counter
    assert not torch.allclose(logits(model), before, atol=1e-2)
    assert_serves_its_weights(model)


def test_low_rank_updates_that_are_merged_are_seen() -> None:
    model = random_model(tiny_config(), BertForSequenceClassification)
    before = logits(model)
    for layer in model.bert.encoder.layer:
        weight = layer.attention.self.query.weight
        weight.data += 0.3 * torch.randn(64, 4) @ torch.randn(4, 64)  # as PEFT's merge_and_unload writes
    assert not torch.allclose(logits(model), before, atol=1e-2)
    assert_serves_its_weights(model)


def test_tied_weights_are_one() -> None:
    model = random_model(tiny_config(), BertForSequenceClassification)
    first, second = (layer.intermediate.dense for layer in model.bert.encoder.layer)
    second.weight = first.weight
    assert_serves_its_weights(model)
    with torch.no_grad():
        first.weight.mul_(0.5)
    assert_serves_its_weights(model)
    tied = random_model(tiny_config(), BertForMaskedLM)
    assert tied.cls.predictions.decoder.weight is tied.bert.embeddings.word_embeddings.weight
    assert_serves_its_weights(tied)


def test_pruned_weights_run_the_original_path_until_they_are_made_permanent() -> None:
    model = random_model(tiny_config(), BertForSequenceClassification)
    dense = model.bert.encoder.layer[0].output.dense
    prune.l1_unstructured(dense, "weight", 0.5)
    with hugging_face(), pytest.warns(bert_op.BertOpWarning, match="hooks are registered on output.dense"):
        pruned = logits(model)
    prune.remove(dense, "weight")
    torch.testing.assert_close(logits(model), pruned, atol=TOLERANCE, rtol=TOLERANCE)
    assert_serves_its_weights(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_converted_weights_are_packed_as_they_are_rounded(dtype: torch.dtype) -> None:
    with bert_op.using(precision="fp32"):  # in which nothing else is rounded
        model = random_model(tiny_config(), BertForSequenceClassification)
    rounded = copy.deepcopy(model).to(dtype).float()
    model.to(dtype)
    state = torch.randn(2, 5, 64)
    with torch.inference_mode():
        found, expected = (each.bert.encoder(state).last_hidden_state for each in (model, rounded))
    assert torch.equal(found, expected)


def _one_neuron(model: Any) -> None:
    model.bert.encoder.layer[0].output.dense.weight.data[7, 1:5] += 100.0


def test_write_that_nothing_shows_is_packed_when_asked() -> None:
    """A few elements written through `.data`: torch counts nothing, and no sample need be among them."""
    model = random_model(tiny_config(), BertForSequenceClassification)
    for ask in (lambda: bert_op.optimize(model, "fp32"), lambda: model.train().eval()):
        _one_neuron(model)
        ask()
        assert_serves_its_weights(model)


def test_compiled_model_follows_training_and_writes_up_to_the_last_eval() -> None:
    model = random_model(tiny_config(), BertForSequenceClassification)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    logits(compiled)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(0.5)
    model.eval()
    torch.testing.assert_close(logits(compiled), logits(model), atol=TOLERANCE, rtol=TOLERANCE)
    assert_serves_its_weights(model)
