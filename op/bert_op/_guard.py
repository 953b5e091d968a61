"""The fewest linear layers that have to stay unquantized for a model to meet a target on texts."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import OriginalPath, layers_packed_apart
from bert_op._policy import LINEARS, Policy, kept_as_selectors
from bert_op._quality import Answers, Target, Text, answers_of, batches_of, distance, figures_of

_LOG = logging.getLogger("bert_op")
# Texts that rank the linear layers: the worst ones, and as many spread over all.
_RANKED_BY = 12
# From so few on, each kept one is tried without.
_PRUNED_BELOW = 9
_ROUNDS, _CALLS = 2, 2

Place = tuple[int, str]
"""A layer's number and one of `LINEARS`."""


@dataclass(frozen=True)
class Guarded:
    """What keeping layers back came to.

    Attributes:
        target: what was asked for.
        texts: how many it was measured on.
        kept: as in `Policy.keep_layers`.
        without, reached: the figures of the target with nothing kept and with these.
        slower: time of a batch of the texts with these kept, relative to that with nothing kept.
    """

    target: dict[str, float]
    texts: int
    kept: tuple[int | str, ...]
    without: dict[str, float]
    reached: dict[str, float]
    slower: float


class _Search:
    def __init__(
        self, model: nn.Module, encoder: PackedEncoder, texts: Sequence[Text], tokenizer: Any
    ) -> None:
        self._model, self._encoder = model, encoder
        self._policy = replace(encoder.op_policy, keep_layers=())
        self._texts, self._tokenizer = texts, tokenizer
        self.batches = batches_of(model, texts, tokenizer)
        self.places: list[Place] = [
            (index, name) for index in range(len(encoder.op_layers)) for name in LINEARS
        ]

    def batches_of(self, numbers: Sequence[int]) -> list[tuple[list[int], Any]]:
        return batches_of(self._model, [self._texts[index] for index in numbers], self._tokenizer)

    def policy(self, kept: Sequence[Place]) -> Policy:
        layers = range(len(self._encoder.op_layers))
        names = [tuple(name for name in LINEARS if (index, name) in kept) for index in layers]
        return replace(self._policy, keep_layers=kept_as_selectors(names))

    def answers(self, policy: Policy, batches: Sequence[tuple[list[int], Any]]) -> Answers:
        self._encoder.set_policy(policy)
        return answers_of(self._model, self._encoder, batches)

    def check(self) -> None:
        """Raises ValueError where it was not the operator that ran."""
        try:
            self._encoder.ready(gradients=False)
        except OriginalPath as reason:
            raise ValueError(
                f"target is impossible: the original path has to run, because {reason}."
            ) from None

    def slower(self, kept: Sequence[Place]) -> float:
        """Time of the longest batch with `kept`, relative to that with nothing kept: medians, in turn."""
        seconds: list[list[float]] = [[], []]
        for _ in range(_ROUNDS):
            for own, policy in zip(seconds, (self.policy(()), self.policy(kept)), strict=True):
                self.answers(policy, self.batches[-1:])  # packs
                for _ in range(_CALLS):
                    begin = time.perf_counter()
                    answers_of(self._model, self._encoder, self.batches[-1:])
                    own.append(time.perf_counter() - begin)
        before, after = map(statistics.median, seconds)
        return after / before


def guard(
    model: nn.Module, encoder: PackedEncoder, target: Target, texts: Sequence[Text], tokenizer: Any
) -> Guarded:
    """Give `encoder`, whose policy has an int8 precision, the fewest kept linear layers that meet `target`.

    Each linear layer is ranked by what keeping it alone gains on some of the texts; the shortest beginning
    of that list that meets the target on all texts is taken, less what turns out not to be needed. The same
    model, texts and target give the same result.

    Raises:
        ValueError: the target is out of reach, the model does not run by the operator, or it has no such
            answers.
        TypeError: the texts are none, or there is no tokenizer.
    """
    search = _Search(model, encoder, texts, tokenizer)
    with layers_packed_apart():
        kept, without, reached = _found(search, target)
    policy = search.policy(kept)
    slower = search.slower(kept) if kept else 1.0
    encoder.set_policy(policy, anew=True)
    encoder.ready(gradients=False)
    result = Guarded(dict(target.bounds), len(texts), policy.keep_layers, without, reached, round(slower, 3))
    _LOG.info(
        "bert_op: %s needs %s kept unquantized (%s instead of %s); a batch takes %.3f times as long",
        target,
        ", ".join(map(str, policy.keep_layers)) or "nothing",
        target.show(reached),
        target.show(without),
        slower,
    )
    return result


def _found(search: _Search, target: Target) -> tuple[list[Place], dict[str, float], dict[str, float]]:
    """What to keep, and the figures without and with it."""
    exact = replace(search.policy(()), precision="fp32")
    reference = search.answers(exact, search.batches)
    search.check()

    def figures(kept: Sequence[Place]) -> dict[str, float]:
        return figures_of(target, reference, search.answers(search.policy(kept), search.batches))

    plain = search.answers(search.policy(()), search.batches)
    without = figures_of(target, reference, plain)
    kept: list[Place] = []
    reached = without
    if not target.met_by(without):
        most = figures(search.places)
        if not target.met_by(most):
            raise ValueError(
                f"target {target} is out of reach on these {len(reference.embeddings)} texts: "
                f"{search.policy(()).precision} comes to {target.show(without)}, and with every layer kept "
                f"unquantized to {target.show(most)}."
            )
        order = _ranked(search, target, exact, reference, plain)
        kept = _shortest(order, lambda some: target.met_by(figures(some)))
        if len(kept) < _PRUNED_BELOW:
            kept = _pruned(kept, lambda some: target.met_by(figures(some)))
        reached = figures(kept)
    return kept, without, reached


def _ranked(
    search: _Search, target: Target, exact: Policy, reference: Answers, plain: Answers
) -> list[Place]:
    """All linear layers, those first that gain most by being kept."""
    errors = 1 - (reference.embeddings.double() * plain.embeddings.double()).sum(-1)
    worst = torch.sort(errors, descending=True, stable=True).indices[:_RANKED_BY].tolist()
    step = max(1, len(errors) // _RANKED_BY)
    numbers = sorted({*worst, *range(0, len(errors), step)})
    batches = search.batches_of(numbers)
    expected = search.answers(exact, batches)
    left = {}
    progress = transformers_logging.tqdm(
        search.places, desc="bert_op: what each linear layer costs", disable=None, leave=False
    )
    for place in progress:
        left[place] = distance(target, expected, search.answers(search.policy([place]), batches))
    return sorted(search.places, key=lambda place: (left[place], search.places.index(place)))


def _shortest(order: Sequence[Place], met: Any) -> list[Place]:
    """The shortest beginning of `order` that is met, by doubling and bisection; all of it is."""
    low, high = 0, 1  # not met, perhaps met
    while high < len(order) and not met(order[:high]):
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        if met(order[:middle]):
            high = middle
        else:
            low = middle
    return list(order[:high])


def _pruned(kept: list[Place], met: Any) -> list[Place]:
    """Without those, the least important first, that the others do not need."""
    for place in reversed(kept[:-1]):
        fewer = [other for other in kept if other != place]
        if met(fewer):
            kept = fewer
    return kept
