"""Quality against labels and the reference, with models whose answers are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worker_tools import ARCHITECTURE, PAIRS, WORDS, make_checkpoint, path_model, run_spec, shared

from harness.values.errors import UserError
from harness.values.spec import BackendSpec, DataSpec, ModelSpec
from harness.worker import accuracy, backends, data, weights
from harness.worker.backends import Head
from harness.worker.backends.graphs import capture
from harness.worker.data import Pairs
from harness.worker.tokens import random_batch
from harness.worker.weights import Loaded

pytestmark = pytest.mark.usefixtures("hugging_face_as_it_is")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return weights.load(path_model(make_checkpoint(tmp_path_factory.mktemp("classifier"))), 0)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_checkpoint(tmp_path_factory.mktemp("embedder"), labels=None)
    (folder / "modules.json").write_text("[]")
    return weights.load(path_model(folder), 0)


def labelled(labels: list[int] | None = None) -> Pairs:
    first, second, own = zip(*PAIRS, strict=True)
    return Pairs(first, second, tuple(labels) if labels is not None else own)


def test_mean_pool_by_hand() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, 100.0]], [[0.0, 5.0], [9.0, 9.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(accuracy.mean_pool(hidden, mask), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


def test_mean_pool_is_fp32_whatever_the_model_is() -> None:
    assert (
        accuracy.mean_pool(torch.ones(1, 2, 4, dtype=torch.bfloat16), torch.ones(1, 2)).dtype == torch.float32
    )


def test_a_classifier_against_itself(classifier: Loaded) -> None:
    reference = backends.reference_of(classifier.model)
    result, rows = accuracy.measure(reference, reference, classifier, labelled(), run_spec(ModelSpec("tiny")))
    assert (result.samples, result.agreement, result.flips, result.mcnemar_p) == (5, 1.0, 0, 1.0)
    assert (result.logit_max_abs, result.gate) == (0.0, "99.9%")
    assert result.cosine_min == pytest.approx(1)
    assert result.accuracy == result.reference_accuracy
    assert result.absent_because is None and result.data_digest == labelled().digest()
    assert [row["label"] for row in rows] == [label for _, _, label in PAIRS]


def test_the_scores_are_those_of_one_pair_at_a_time(classifier: Loaded) -> None:
    reference = backends.reference_of(classifier.model)
    _, rows = accuracy.measure(reference, reference, classifier, labelled(), run_spec(ModelSpec("tiny")))
    assert classifier.tokenizer is not None
    for row, (first, second, _) in zip(rows, PAIRS, strict=True):
        with torch.inference_mode():
            logits = classifier.model(**classifier.tokenizer(first, second, return_tensors="pt")).logits
        assert row["score"] == pytest.approx(float(logits.softmax(dim=1)[0, 1]), abs=1e-5)
        assert row["decision"] == int(logits.argmax())


def test_a_classifier_that_always_disagrees(classifier: Loaded) -> None:
    reference = backends.reference_of(classifier.model)

    def opposite(*inputs: torch.Tensor) -> torch.Tensor:
        return reference(*inputs).flip(1)

    _, rows = accuracy.measure(reference, reference, classifier, labelled(), run_spec(ModelSpec("tiny")))
    right = [row["reference_decision"] for row in rows]
    result, _ = accuracy.measure(
        opposite, reference, classifier, labelled(right), run_spec(ModelSpec("tiny"))
    )
    assert (result.reference_accuracy, result.accuracy, result.agreement, result.flips) == (1.0, 0.0, 0.0, 5)
    assert result.gate == "below 99%"
    assert result.mcnemar_p == pytest.approx(2 / 2**5)
    assert result.logit_max_abs is not None and result.logit_max_abs > 0


def test_the_cosine_of_a_classifier_is_that_of_its_hidden_states(tmp_path: Path) -> None:
    loaded = weights.load(path_model(make_checkpoint(tmp_path)), 0)
    reference = backends.reference_of(loaded.model)
    with torch.no_grad():
        loaded.model.bert.encoder.layer[1].output.LayerNorm.weight.data = torch.ones(64).neg_()
    result, _ = accuracy.measure(reference, reference, loaded, labelled(), run_spec(ModelSpec("tiny")))
    assert result.logit_max_abs == 0.0
    assert result.cosine_min == pytest.approx(-1, abs=1e-5)


def hidden_states_negated_in_short_batches(model: torch.nn.Module, longest: int) -> list[int]:
    """Spoils the hidden states of all batches but the longest; returns the list of lengths that it saw."""
    seen: list[int] = []

    def spoil(module: torch.nn.Module, given: object, output: Any) -> None:
        seen.append(output.last_hidden_state.shape[1])
        if seen[-1] < longest:
            output.last_hidden_state.neg_()

    model.register_forward_hook(spoil)
    return seen


@pytest.mark.parametrize("graph", ["eager", "jit"])
def test_the_cosine_of_a_classifier_is_the_smallest_of_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 2)
    loaded = weights.load(path_model(make_checkpoint(tmp_path)), 0)
    assert loaded.tokenizer is not None
    longest = max(len(loaded.tokenizer(first, second).input_ids) for first, second, _ in PAIRS)
    reference = backends.reference_of(loaded.model)
    call = capture(Head(loaded.model).eval(), graph, random_batch(len(WORDS), [longest], longest, seed=0))
    seen = hidden_states_negated_in_short_batches(loaded.model.bert, longest)
    result, _ = accuracy.measure(call, reference, loaded, labelled(), run_spec(ModelSpec("tiny")))
    assert result.cosine_min == pytest.approx(-1, abs=1e-5)
    assert len(seen) == 3 and sorted(seen) == seen, "every batch passes once, whatever the graph"


def test_an_embedder_against_itself(embedder: Loaded) -> None:
    reference = backends.reference_of(embedder.model)
    result, rows = accuracy.measure(reference, reference, embedder, labelled(), run_spec(ModelSpec("tiny")))
    assert result.agreement == 1.0
    assert result.cosine_min == pytest.approx(1)
    assert result.logit_max_abs is None
    assert result.roc_auc is not None and result.roc_auc == result.reference_roc_auc
    assert result.threshold is not None
    assert all(row["decision"] == int(row["score"] >= result.threshold) for row in rows)
    # No other threshold does better on these scores.
    scores, labels = np.array([row["score"] for row in rows]), np.array([row["label"] for row in rows])
    assert result.accuracy == max(((scores >= cut) == labels).mean() for cut in [*scores, 2.0])


def test_the_same_sentence_twice_has_cosine_one(embedder: Loaded) -> None:
    reference = backends.reference_of(embedder.model)
    pairs = Pairs(("A cat sat.", "A dog ran."), ("A cat sat.", "The mat."), (1, 0))
    result, rows = accuracy.measure(reference, reference, embedder, pairs, run_spec(ModelSpec("tiny")))
    assert rows[0]["score"] == pytest.approx(1)
    assert result.accuracy == 1.0


def test_one_threshold_for_both(embedder: Loaded) -> None:
    reference = backends.reference_of(embedder.model)

    def degenerate(*inputs: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(reference(*inputs))

    result, rows = accuracy.measure(degenerate, reference, embedder, labelled(), run_spec(ModelSpec("tiny")))
    assert [row["decision"] for row in rows] == [1] * 5, "all cosines are 1, above the reference's threshold"
    assert result.roc_auc == 0.5
    assert result.cosine_min is not None and result.cosine_min < 0.9


def test_random_weights_have_no_accuracy_and_still_an_error() -> None:
    loaded = weights.load(ModelSpec("tiny", source="random", architecture=ARCHITECTURE), 0)
    reference = backends.reference_of(loaded.model)

    def worse(*inputs: torch.Tensor) -> torch.Tensor:
        return reference(*inputs) + 0.5

    result, rows = accuracy.measure(worse, reference, loaded, labelled(), run_spec(ModelSpec("tiny")))
    assert (result.accuracy, result.f1, result.agreement, rows) == (None, None, None, [])
    assert result.absent_because == "the weights are random"
    assert result.cosine_min is not None and result.cosine_min < 0.999
    assert result.samples == accuracy.FEW_SEQUENCES


def test_data_without_labels_have_no_accuracy(classifier: Loaded) -> None:
    reference = backends.reference_of(classifier.model)
    result, rows = accuracy.measure(reference, reference, classifier, None, run_spec(ModelSpec("tiny")))
    assert (result.accuracy, result.logit_max_abs, rows) == (None, 0.0, [])
    assert result.absent_because == "data synthetic has no labels"


def test_an_encoder_has_no_accuracy(embedder: Loaded) -> None:
    loaded = dataclasses.replace(embedder, task="encoder")
    reference = backends.reference_of(loaded.model)
    result, _ = accuracy.measure(reference, reference, loaded, labelled(), run_spec(ModelSpec("tiny")))
    assert result.accuracy is None
    assert result.absent_because is not None and "task encoder" in result.absent_because


def test_text_needs_a_tokenizer(classifier: Loaded) -> None:
    loaded = dataclasses.replace(classifier, tokenizer=None)
    reference = backends.reference_of(loaded.model)
    spec = run_spec(ModelSpec("tiny"), data=DataSpec("pairs", shipped="pairs.tsv"))
    with pytest.raises(UserError, match=r"data='pairs'.*model\.tokenizer="):
        accuracy.measure(reference, reference, loaded, labelled(), spec)


def test_an_answer_that_is_no_number_is_an_error(classifier: Loaded) -> None:
    reference = backends.reference_of(classifier.model)

    def broken(*inputs: torch.Tensor) -> torch.Tensor:
        return reference(*inputs) * float("nan")

    with pytest.raises(RuntimeError, match="measured model gave NaN"):
        accuracy.measure(broken, reference, classifier, labelled(), run_spec(ModelSpec("tiny")))


def test_random_rows_include_padding(classifier: Loaded) -> None:
    """The error on random ids has to see masks: a model that ignores them must not look perfect."""
    reference = backends.reference_of(classifier.model)

    def blind(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return reference(ids, torch.ones_like(mask), types)

    result, _ = accuracy.measure(blind, reference, classifier, None, run_spec(ModelSpec("tiny")))
    assert result.logit_max_abs is not None and result.logit_max_abs > 0


def test_the_shared_checkpoint_on_mrpc() -> None:
    """The known figure of the first 100 pairs, and bf16 of Hugging Face beside it."""
    folder, file = shared("models", "minilm-l6-mrpc"), shared("data", "mrpc", "test.tsv")
    spec = run_spec(
        path_model(folder),
        data=DataSpec("mrpc", path=str(file)),
        precision="bf16",
        backend=BackendSpec("hf", "eager"),
    )
    loaded = weights.load(spec.model, 0)
    pairs = data.read_pairs(spec.data)
    reference = backends.reference_of(loaded.model)
    example = random_batch(100, [8], 8, seed=0)
    runner = backends.prepare(loaded.model, spec, example)
    result, _ = accuracy.measure(runner.call, reference, loaded, pairs, spec)
    assert (result.samples, result.reference_accuracy) == (100, 0.83)
    assert result.flips is not None and result.flips <= 2
    assert result.logit_max_abs is not None and 0 < result.logit_max_abs < 0.5


def test_the_position_limit_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    assert accuracy.position_limit(weights.load(path_model(make_checkpoint(tmp_path)), 0).model) == 48


def test_text_without_labels_tells_agreement(classifier: Loaded, embedder: Loaded) -> None:
    pairs = labelled([])
    for loaded in (classifier, embedder):
        reference = backends.reference_of(loaded.model)
        result, rows = accuracy.measure(reference, reference, loaded, pairs, run_spec(ModelSpec("tiny")))
        assert (result.samples, result.accuracy, result.f1) == (5, None, None)
        assert result.absent_because is not None and result.absent_because.endswith("has no labels")
        assert result.cosine_mean == pytest.approx(1)
        if loaded is classifier:
            assert (result.agreement, result.flips) == (1.0, 0)
            assert [row["label"] for row in rows] == [None] * 5
        else:
            assert (result.top1, result.top10, result.spearman) == (1.0, None, pytest.approx(1))


def test_the_worst_texts_are_those_that_differ_most(embedder: Loaded) -> None:
    reference = backends.reference_of(embedder.model)
    changed = backends.reference_of(embedder.model)
    with torch.no_grad():
        changed.model.embeddings.word_embeddings.weight[7:].mul_(3)
    result, _ = accuracy.measure(changed, reference, embedder, labelled(), run_spec(ModelSpec("tiny")))
    errors = [one.error for one in result.worst]
    assert errors and errors == sorted(errors, reverse=True)
    assert result.cosine_min == pytest.approx(1 - errors[0], abs=1e-6)
