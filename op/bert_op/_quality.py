"""What a model says about texts, and how far one run of it is from another: the figures of targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# A text, or a pair of them.
Text = str | tuple[str, str]

_BATCH = 32
_LONGEST = 512
# Neighbours that the overlaps look at.
_NEIGHBOURS = {"top1": 1, "top10": 10}


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said.

    Attributes:
        embeddings: (texts, size), unit length: what sentence-transformers' pooling makes, else the mean of
            the attended rows of the encoder's result.
        scores: (decisions, classes) of the model's head, or None where it has none: one decision a text, or
            one an attended token.
    """

    embeddings: Tensor
    scores: Tensor | None


@dataclass(frozen=True)
class Target:
    """What has to hold; every figure that is named.

    Attributes:
        bounds: by the names of `FIGURES`.
    """

    bounds: tuple[tuple[str, float], ...]

    def met_by(self, figures: Mapping[str, float]) -> bool:
        return all(
            figures[name] <= bound if name in _AT_MOST else figures[name] >= bound
            for name, bound in self.bounds
        )

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {'<=' if name in _AT_MOST else '>='} {bound:g}" for name, bound in self.bounds
        )

    def show(self, figures: Mapping[str, float]) -> str:
        """The figures that it names."""
        return ", ".join(f"{name} {figures[name]:.6g}" for name, _ in self.bounds)


def parse_target(target: object) -> Target:
    """A number is a bound of the mean cosine; a mapping names figures of `FIGURES`.

    Raises:
        TypeError: it is neither.
        ValueError: a figure is unknown, or no value of it could be meant.
    """
    if isinstance(target, (int, float)) and not isinstance(target, bool):
        target = {"cosine_mean": target}
    if not isinstance(target, Mapping):
        raise TypeError(
            f"target={target!r} is neither a number nor a mapping such as {{'cosine_min': 0.99}}."
        )
    if not target:
        raise ValueError(f"target={{}} asks for nothing: it knows {', '.join(FIGURES)}.")
    bounds = []
    for name, bound in target.items():
        if name not in FIGURES:
            raise ValueError(f"target has {name!r}, but knows {', '.join(FIGURES)}.")
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise TypeError(f"target[{name!r}]={bound!r} is not a number.")
        if not (math.isfinite(bound) and 0 <= bound <= 1):
            raise ValueError(f"target[{name!r}]={bound!r} is not between 0 and 1.")
        bounds.append((str(name), float(bound)))
    return Target(tuple(bounds))


def batches_of(model: nn.Module, texts: Sequence[Text], tokenizer: Any) -> list[tuple[list[int], Any]]:
    """The texts as batches of similar lengths that the model is called with, each with its texts' numbers.

    Raises:
        TypeError: there is no tokenizer, or a text is neither a string nor a pair of strings.
    """
    own = getattr(model, "preprocess", None) or getattr(model, "tokenize", None)
    if tokenizer is None and own is None:
        raise TypeError("texts need a tokenizer: give that of the model, tokenizer=AutoTokenizer...")
    pairs = {isinstance(text, (tuple, list)) for text in texts}
    if len(pairs) != 1 or not all(_is_text(text) for text in texts):
        raise TypeError("texts is not a list of strings, or of pairs of strings.")

    def encode(chosen: list[Text]) -> Any:
        if tokenizer is None:
            assert own is not None
            return own(chosen)
        parts = zip(*chosen, strict=True) if True in pairs else [chosen]
        longest = min(tokenizer.model_max_length, _LONGEST, _positions(model))
        return tokenizer(
            *(list(part) for part in parts),
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )

    order = sorted(range(len(texts)), key=lambda index: (len(str(texts[index])), index))
    numbers = [order[begin : begin + _BATCH] for begin in range(0, len(order), _BATCH)]
    return [(batch, encode([texts[index] for index in batch])) for batch in numbers]


def _is_text(text: object) -> bool:
    if isinstance(text, (tuple, list)):
        return len(text) == 2 and all(isinstance(part, str) for part in text)
    return isinstance(text, str)


def _positions(model: nn.Module) -> int:
    """How many tokens every family can take with this config: some begin to count positions at 2."""
    configs = (getattr(module, "config", None) for module in model.modules())
    positions = (getattr(config, "max_position_embeddings", None) for config in configs)
    return min((count - 2 for count in positions if isinstance(count, int)), default=_LONGEST)


def answers_of(model: nn.Module, encoder: nn.Module, batches: Sequence[tuple[list[int], Any]]) -> Answers:
    """Run the model on the batches.

    Raises:
        ValueError: an answer is not finite.
    """
    rows: list[Tensor] = []
    handle = encoder.register_forward_hook(lambda _module, _inputs, output: rows.append(_first(output)))
    numbers: list[int] = []
    embeddings: list[Tensor] = []
    scores: dict[int, Tensor] = {}
    try:
        with torch.no_grad():
            for batch, features in batches:
                rows.clear()
                inputs = dict(features)
                output = model(inputs) if _takes_features(model) else model(**inputs)
                attended = inputs["attention_mask"].bool()
                embeddings.append(_embeddings(output, rows[-1], attended).float())
                numbers += batch
                for index, own in zip(batch, _scores(output, attended) or (), strict=False):
                    scores[index] = own.float()
    finally:
        handle.remove()
    places = torch.tensor(numbers).argsort()
    vectors = nn.functional.normalize(torch.cat(embeddings), dim=-1)[places]
    if not vectors.isfinite().all():
        raise ValueError("the model's answers to the texts are not finite.")
    return Answers(vectors, torch.cat([scores[index] for index in sorted(scores)]) if scores else None)


def _takes_features(model: nn.Module) -> bool:
    """Whether it is called with one mapping, as models of sentence-transformers are."""
    return hasattr(model, "preprocess") or hasattr(model, "tokenize")


def _first(output: Any) -> Tensor:
    value: Tensor = output if isinstance(output, Tensor) else output[0]
    return value


def _embeddings(output: Any, hidden_states: Tensor, attended: Tensor) -> Tensor:
    if isinstance(output, Mapping) and isinstance(output.get("sentence_embedding"), Tensor):
        return output["sentence_embedding"]
    weights = attended.unsqueeze(-1).to(hidden_states.dtype)
    return (hidden_states * weights).sum(1) / weights.sum(1).clamp_min(1)


def _scores(output: Any, attended: Tensor) -> list[Tensor] | None:
    """(decisions, classes) of each text."""
    if not isinstance(output, Mapping):
        return None
    if isinstance(output.get("start_logits"), Tensor):
        hidden = ~attended
        ends = [output[name].masked_fill(hidden, -math.inf) for name in ("start_logits", "end_logits")]
        return list(torch.stack(ends, 1))
    logits = output.get("logits", output.get("scores"))
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        return None
    if logits.dim() == 3 and logits.shape[1] == attended.shape[1]:
        return [own[mask] for own, mask in zip(logits, attended, strict=True)]
    return list(logits.reshape(len(logits), 1, -1))


def decisions_of(scores: Tensor) -> Tensor:
    """The best class; of a single score, whether it is above 0."""
    return scores[:, 0] > 0 if scores.shape[1] == 1 else scores.argmax(-1)


def _flips(reference: Answers, measured: Answers) -> float:
    if reference.scores is None or measured.scores is None:
        raise ValueError("target asks for flips, but the model has no head that decides.")
    return (decisions_of(reference.scores) != decisions_of(measured.scores)).double().mean().item()


def _overlap(neighbours: int) -> Callable[[Answers, Answers], float]:
    """Of the nearest texts to each, the share that is the same."""

    def overlap(reference: Answers, measured: Answers) -> float:
        if len(reference.embeddings) <= neighbours:
            raise ValueError(f"target asks for {neighbours} neighbours: give more than {neighbours} texts.")
        sets = []
        for answers in (reference, measured):
            similar = answers.embeddings @ answers.embeddings.T
            nearest = similar.fill_diagonal_(-2).topk(neighbours).indices
            sets.append(torch.zeros_like(similar, dtype=torch.bool).scatter_(1, nearest, True))
        return (sets[0] & sets[1]).sum().item() / (neighbours * len(reference.embeddings))

    return overlap


def cosines(reference: Answers, measured: Answers) -> Tensor:
    """Of each text's two embeddings, in fp64."""
    return (reference.embeddings.double() * measured.embeddings.double()).sum(-1)


FIGURES: dict[str, Callable[[Answers, Answers], float]] = {
    "cosine_mean": lambda reference, measured: cosines(reference, measured).mean().item(),
    "cosine_min": lambda reference, measured: cosines(reference, measured).min().item(),
    "flips": _flips,
    **{name: _overlap(count) for name, count in _NEIGHBOURS.items()},
}
"""Reference and measured answers to one figure: cosines of embeddings, the share of decisions that differ,
the share of nearest neighbours that stay."""

_AT_MOST = ("flips",)


def figures_of(target: Target, reference: Answers, measured: Answers) -> dict[str, float]:
    """The figures that `target` names."""
    return {name: FIGURES[name](reference, measured) for name, _ in target.bounds}


def distance(target: Target, reference: Answers, measured: Answers) -> float:
    """One smooth number to tell by which of two runs is nearer to the reference, where the figures of few
    texts are the same: that of the scores if `target` is about decisions, else of the embeddings."""
    names = {name for name, _ in target.bounds}
    if names == {"flips"} and reference.scores is not None and measured.scores is not None:
        finite = reference.scores.isfinite() & measured.scores.isfinite()
        return (reference.scores - measured.scores)[finite].double().square().mean().item()
    return (1 - cosines(reference, measured)).mean().item()
