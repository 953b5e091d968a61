"""Quality: the measured model against labels and against Hugging Face in fp32, on the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from harness.values import estimates
from harness.values.errors import UserError
from harness.values.report import Accuracy
from harness.values.spec import SCORED_TASKS, RunSpec
from harness.worker import neighbours, scoring
from harness.worker.backends import Head
from harness.worker.data import Pairs
from harness.worker.references import Reference
from harness.worker.tokens import Batch, length_order, random_batch, text_batches, texts_of
from harness.worker.weights import Loaded

BATCH_SIZE = 32
# Sequences of random ids on which the error against the reference is taken where no labelled text can be.
RANDOM_SEQUENCES = 16
# Of random weights, whose error says little of any other weights.
FEW_SEQUENCES = 4
# What is said of embeddings whether or not there are labels.
DISTANCE = ("top1", "top10", "spearman", "worst", "cosine_min", "cosine_mean", "cosine_p1")

Array = NDArray[Any]
Call = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """What is scored: batches, and the number of the text that each of their rows holds, in their order."""

    batches: list[Batch]
    order: Array


def absent_because(loaded: Loaded, pairs: Pairs | None, data_name: str) -> str | None:
    """Why there can be no accuracy, or None where there can."""
    if loaded.source == "random":
        return "the weights are random"
    if loaded.task not in SCORED_TASKS:
        return f"the model has no task head whose decisions could be scored (task {loaded.task})"
    if pairs is None or not pairs.labels:
        return f"data {data_name} has no labels"
    return None


def measure(
    call: Call, reference: Head, loaded: Loaded, pairs: Pairs | None, spec: RunSpec, *, in_place: bool = True
) -> tuple[Accuracy, list[dict[str, Any]]]:
    """Accuracy of `call` and the rows of predictions.json ([] where no accuracy can be measured).

    Args:
        call: what is measured, see backends.Runner.
        reference: Hugging Face in fp32, see backends.reference_of.
        loaded: the model that was converted, its tokenizer and its task.
        pairs: labelled text, None for none.
        spec: for random ids, and for the names in messages.
        in_place: whether loaded.model is the converted one that `call` runs, so that the hidden states below
            its head can be compared too.

    Text without labels still tells how the decisions, or the embeddings, differ from the reference's. Without
    text, or with random weights, the error against the reference is measured on random ids. UserError where
    the checkpoint brings no tokenizer for the text.
    """
    reason = absent_because(loaded, pairs, spec.data.name)
    if pairs is None or loaded.source == "random" or loaded.task not in SCORED_TASKS:
        error = _error_on_random_ids(call, reference, loaded, spec, in_place)
        return dataclasses.replace(error, absent_because=reason), []
    limit = position_limit(loaded.model)
    texts = texts_of(pairs, loaded.task)
    # Texts of like length share a batch: real text in its own order would be a third padding.
    order = length_order(texts)
    tokenizer = need_tokenizer(loaded, "data", spec.data.name)
    batches = text_batches(tokenizer, [texts[index] for index in order], BATCH_SIZE, limit=limit)
    inputs = Inputs(batches, np.asarray(order))
    if loaded.task == "sentence-embedding":
        accuracy, rows = _measure_embeddings(call, reference, inputs, pairs)
    else:
        accuracy, rows = _measure_logits(call, reference, loaded.model if in_place else None, inputs, pairs)
    return dataclasses.replace(accuracy, data_digest=pairs.digest(), absent_because=reason), rows


def position_limit(model: transformers.PreTrainedModel) -> int:
    """Longest sequence that `model` has positions for."""
    # RoBERTa and its like number positions from after the one that stands for padding.
    padding = model.base_model.embeddings.position_embeddings.padding_idx
    return int(model.config.max_position_embeddings) - (0 if padding is None else padding + 1)


def need_tokenizer(loaded: Loaded, setting: str, value: str) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer, or UserError naming the setting that asked for text."""
    if loaded.tokenizer is None:
        raise UserError(
            setting, value, f"is text, and the model's source ({loaded.source}) has no tokenizer",
            "Set model.tokenizer=<hub id or folder>, or use data=synthetic and batch.tokens=random",
        )  # fmt: skip
    return loaded.tokenizer


def mean_pool(hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the valid positions, normalised: (batch, seq_len, hidden) of any float, (batch, seq_len) ->
    fp32 (batch, hidden). What sentence-transformers does with all-MiniLM, in fp32 whatever the model's dtype.
    """
    weights = attention_mask[:, :, None].float()
    total = (hidden_states.float() * weights).sum(dim=1)
    return torch.nn.functional.normalize(total / weights.sum(dim=1).clamp(min=1e-9), dim=1)


def _labels_of(pairs: Pairs) -> Array | None:
    return np.asarray(pairs.labels) if pairs.labels else None


def _measure_logits(
    call: Call,
    reference: Head,
    model: transformers.PreTrainedModel | None,
    inputs: Inputs,
    pairs: Pairs,
) -> tuple[Accuracy, list[dict[str, Any]]]:
    labels = _labels_of(pairs)
    found, expected, cosines = _logits(call, reference, model, inputs)
    measured, referred = scoring.from_logits(found), scoring.from_logits(expected)
    errors = np.abs(found - expected).max(axis=1)
    accuracy = dataclasses.replace(
        scoring.agree(measured, referred) if labels is None else scoring.judge(labels, measured, referred),
        logit_max_abs=float(errors.max()),
        worst=scoring.worst(list(zip(pairs.sentence1, pairs.sentence2, strict=True)), errors),
        **cosines,
    )
    return accuracy, scoring.predictions(labels, measured, referred)


def embeddings(call: Call, reference: Call, inputs: Inputs) -> tuple[Array, Array]:
    """Those of `call` and of the reference, each (texts, hidden_size), in the order of the texts."""
    expected = _outputs(reference, inputs, "reference", _pooled)
    return _outputs(call, inputs, "measured", _pooled), expected


def _measure_embeddings(
    call: Call, reference: Call, inputs: Inputs, pairs: Pairs
) -> tuple[Accuracy, list[dict[str, Any]]]:
    found, expected = embeddings(call, reference, inputs)
    count, texts = len(pairs), [*pairs.sentence1, *pairs.sentence2]
    own = neighbours.distinct(texts)
    cosines = scoring.cosines(found, expected)
    expected_cosines = scoring.cosines(expected[:count], expected[count:])
    found_cosines = scoring.cosines(found[:count], found[count:])
    distance = Accuracy(
        samples=count,
        top1=neighbours.overlap(found[own], expected[own], 1),
        top10=neighbours.overlap(found[own], expected[own], 10),
        spearman=scoring.spearman(found_cosines, expected_cosines),
        worst=scoring.worst([(texts[number],) for number in own], 1 - cosines[own]),
        **scoring.of_cosines(cosines),
    )
    labels = _labels_of(pairs)
    if labels is None:
        return distance, []
    # One threshold for both, as in an application that replaces the model and keeps its threshold. Were each
    # model given its own, a jump between two equally good thresholds would count as flipped decisions.
    threshold = estimates.best_threshold(labels, expected_cosines).value
    measured = scoring.from_cosines(found_cosines, threshold)
    referred = scoring.from_cosines(expected_cosines, threshold)
    judged = scoring.judge(labels, measured, referred)
    accuracy = dataclasses.replace(
        judged,
        **{name: getattr(distance, name) for name in DISTANCE},
        threshold=threshold,
        roc_auc=scoring.roc_auc(labels, found_cosines),
        reference_roc_auc=scoring.roc_auc(labels, expected_cosines),
    )
    return accuracy, scoring.predictions(labels, measured, referred)


def _error_on_random_ids(
    call: Call, reference: Head, loaded: Loaded, spec: RunSpec, in_place: bool
) -> Accuracy:
    """Error against the reference on rows of the timed length and shorter ones: padding takes part."""
    seq_len = spec.batch.seq_len
    count = FEW_SEQUENCES if loaded.source == "random" else RANDOM_SEQUENCES
    lengths = [max(1, seq_len - row * seq_len // count) for row in range(count)]
    batch = random_batch(loaded.model.config.vocab_size, lengths, seq_len, spec.seed)
    inputs = Inputs([batch], np.arange(count))
    if loaded.task == "paraphrase-classification":
        model = loaded.model if in_place else None
        found, expected, cosines = _logits(call, reference, model, inputs)
        return Accuracy(samples=count, logit_max_abs=float(np.abs(found - expected).max()), **cosines)
    found, expected = embeddings(call, reference, inputs)
    return Accuracy(samples=count, **scoring.of_cosines(scoring.cosines(found, expected)))


def _logits(
    call: Call, reference: Head, model: transformers.PreTrainedModel | None, inputs: Inputs
) -> tuple[Array, Array, dict[str, Any]]:
    """Logits of `call` and of the reference, and the cosines between their pooled hidden states, see
    scoring.of_cosines.

    Two logits span no space in which a cosine would say anything: the hidden states below the head do. They
    come from the passes that give the logits. Only a graph has nothing but the logits as its result: there
    the model that it was captured from goes over the inputs once more, up to its head.

    model: the one that `call` runs; None where that is no torch model any more, and so there are no cosines.
    """
    expected, expected_states = _logits_and_states(reference, inputs, "reference")
    if isinstance(call, Head) and call.model is model:
        found, states = _logits_and_states(call, inputs, "measured")
    else:
        found = _outputs(call, inputs, "measured", _plain)
        if model is None:
            return found, expected, {}
        states = _outputs(Head(model.base_model).eval(), inputs, "encoder of the measured", _pooled)
    return found, expected, scoring.of_cosines(scoring.cosines(states, expected_states))


def _logits_and_states(head: Head, inputs: Inputs, what: str) -> tuple[Array, Array]:
    """(rows, labels) and the pooled hidden states below the head, (rows, hidden_size), of one pass each."""
    below: list[torch.Tensor] = []

    def both(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.cat([_plain(logits, batch), _pooled(below.pop(), batch)], dim=1)

    hook = head.model.base_model.register_forward_hook(lambda module, given, output: below.append(output[0]))
    try:
        rows = _outputs(head, inputs, what, both)
    finally:
        hook.remove()
    labels = head.model.config.num_labels
    return rows[:, :labels], rows[:, labels:]


def _plain(output: torch.Tensor, batch: Batch) -> torch.Tensor:
    return output.float()


def _pooled(output: torch.Tensor, batch: Batch) -> torch.Tensor:
    return mean_pool(output, batch.attention_mask)


def _outputs(
    call: Call, inputs: Inputs, what: str, collect: Callable[[torch.Tensor, Batch], torch.Tensor]
) -> Array:
    """Rows in the order of the texts, fp32. RuntimeError when one is not finite: it decides at random."""

    def compute() -> Array:
        return _computed(call, inputs, what, collect)

    if isinstance(call, Reference):
        return call.answers(inputs.batches, inputs.order, collect.__name__, compute)
    return compute()


def _computed(
    call: Call, inputs: Inputs, what: str, collect: Callable[[torch.Tensor, Batch], torch.Tensor]
) -> Array:
    rows = []
    with torch.inference_mode():
        for batch in tqdm(inputs.batches, desc=f"accuracy: {what}", unit="batch", leave=False, disable=None):
            rows.append(collect(call(*batch.inputs), batch))
    in_batches = torch.cat(rows).numpy()
    values: Array = np.empty_like(in_batches)
    values[inputs.order] = in_batches
    if not np.isfinite(values).all():
        raise RuntimeError(
            f"the {what} model gave NaN or infinity for {int((~np.isfinite(values)).any(1).sum())} rows"
        )
    return values
