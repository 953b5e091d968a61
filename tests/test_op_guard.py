"""`optimize(texts=..., target=...)`: what is kept unquantized for a target, and what it is measured by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from bert_op._quality import Answers, figures_of, parse_target
from op_models import VOCABULARY, make_output_coarse, random_model, tiny_config
from torch import nn
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]


class Tokenizer:
    """A token for each letter."""

    model_max_length = 64

    def __call__(
        self, texts: list[str], pairs: list[str] | None = None, **_options: Any
    ) -> dict[str, torch.Tensor]:
        joined = [f"{one} {other}" for one, other in zip(texts, pairs or [""] * len(texts), strict=True)]
        longest = max(map(len, joined))
        ids = [[2 + ord(letter) % (VOCABULARY - 2) for letter in text] for text in joined]
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        return {"input_ids": padded, "attention_mask": (padded > 0).long()}


TEXTS = [f"{one} and {other} {number}" for number, one in enumerate(WORDS) for other in WORDS]


def damaged(model_class: Any = BertModel, **changes: Any) -> Any:
    model = random_model(tiny_config(num_hidden_layers=3, **changes), model_class)
    make_output_coarse(getattr(model, "bert", model).encoder.layer[1])
    return model


def optimized(
    model: nn.Module, target: Any, precision: str = "bf16_qint8", texts: Any = TEXTS
) -> dict[str, Any]:
    bert_op.optimize(model, precision, texts=texts, tokenizer=Tokenizer(), target=target)
    guard: dict[str, Any] = bert_op.explain(model)["encoders"][0]["guard"]
    return guard


def test_nothing_is_kept_where_the_target_is_met() -> None:
    guard = optimized(random_model(tiny_config()), 0.9)
    assert guard["kept"] == () and guard["slower"] == 1.0
    assert guard["without"] == guard["reached"] and guard["reached"]["cosine_mean"] > 0.9


@pytest.mark.parametrize("precision", ["fp32_qint8", "bf16_qint8"])
def test_what_is_coarse_is_kept_and_nothing_else(precision: str) -> None:
    guards = []
    for _ in range(2):
        model = damaged()
        without = optimized(model, 0.0, precision)["reached"]["cosine_mean"]
        bert_op.restore(model)
        target = 1 - (1 - without) / 4
        guards.append(optimized(model, target, precision))
    assert guards[0]["kept"] == ("1.output",)
    assert guards[0]["without"]["cosine_mean"] < target <= guards[0]["reached"]["cosine_mean"]
    assert guards[0]["kept"] == guards[1]["kept"] and guards[0]["reached"] == guards[1]["reached"]
    (encoder,) = bert_op.explain(model)["encoders"]
    assert [segment["kept_linears"] for segment in encoder["packed"]] == [[], ["output"], []]


def test_what_is_kept_is_saved_and_loaded(tmp_path: Path) -> None:
    model = damaged()
    without = optimized(model, 0.0)["reached"]["cosine_mean"]
    kept = optimized(model, 1 - (1 - without) / 4)["kept"]
    model.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path).eval()
    assert loaded.config.bert_op["keep_layers"] == list(kept) == ["1.output"]
    inputs = Tokenizer()(TEXTS)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_target_out_of_reach_says_how_far_it_came() -> None:
    model = damaged()
    bert_op.optimize(model, "bf16")
    with pytest.raises(
        ValueError, match=r"cosine_min >= 1 is out of reach on these 64 texts: bf16_qint8 comes to "
    ):
        optimized(model, {"cosine_min": 1.0})
    assert bert_op.explain(model)["precision"] == "bf16"


def test_decisions_of_every_head() -> None:
    heads = (
        (BertForSequenceClassification, {"num_labels": 3}),
        (BertForSequenceClassification, {"num_labels": 1}),
        (BertForTokenClassification, {"num_labels": 5}),
        (BertForQuestionAnswering, {}),
    )
    for head, changes in heads:
        model = damaged(head, **changes)
        without = optimized(model, {"flips": 1.0})["reached"]["flips"]
        guard = optimized(model, {"flips": without / 2})
        assert guard["reached"]["flips"] <= without / 2


def test_pairs_of_texts() -> None:
    model = random_model(tiny_config(num_labels=2), BertForSequenceClassification)
    pairs = [(text, text[::-1]) for text in TEXTS]
    assert optimized(model, {"cosine_min": 0.9, "top1": 0.1}, texts=pairs)["texts"] == len(pairs)


def test_what_is_asked_wrongly_is_said() -> None:
    model = random_model(tiny_config())
    tokenizer = Tokenizer()

    def refused(error: type[Exception], match: str, precision: str = "bf16_qint8", **options: Any) -> None:
        with pytest.raises(error, match=match):
            bert_op.optimize(model, precision, **options)

    refused(TypeError, "got target, but no texts", target=0.9)
    refused(TypeError, "got texts, but no target", texts=TEXTS)
    refused(TypeError, "need a tokenizer", texts=TEXTS, target=0.9)
    refused(TypeError, "texts is not a list", texts="one text", target=0.9, tokenizer=tokenizer)
    refused(TypeError, "texts is not a list", texts=[1, 2], target=0.9, tokenizer=tokenizer)
    refused(TypeError, "neither a number nor", texts=TEXTS, target="high", tokenizer=tokenizer)
    refused(
        ValueError,
        "'cosine' , but knows|'cosine', but knows",
        texts=TEXTS,
        target={"cosine": 1},
        tokenizer=tokenizer,
    )
    refused(ValueError, "not between 0 and 1", texts=TEXTS, target=99, tokenizer=tokenizer)
    refused(ValueError, "asks for nothing", texts=TEXTS, target={}, tokenizer=tokenizer)
    refused(ValueError, "has no head", texts=TEXTS, target={"flips": 0.1}, tokenizer=tokenizer)
    refused(ValueError, "more than 10 texts", texts=TEXTS[:4], target={"top10": 0.1}, tokenizer=tokenizer)
    refused(ValueError, "int8 precisions", "bf16", texts=TEXTS, target=0.9, tokenizer=tokenizer)
    refused(ValueError, "exclude each other", texts=TEXTS, target=0.9, tokenizer=tokenizer, keep_layers=[0])


def test_figures_of_known_answers() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 1.0, 1.2])
    moved = torch.tensor([0.0, 0.1, 0.3, 1.0, 3.0])

    def answers(of: torch.Tensor, scores: list[list[float]]) -> Answers:
        return Answers(torch.stack([of.cos(), of.sin()], 1), torch.tensor(scores))

    reference = answers(angles, [[1.0, 0.0]] * 5)
    measured = answers(moved, [[1.0, 0.0]] * 4 + [[0.0, 1.0]])
    figures = figures_of(
        parse_target({"cosine_min": 0, "cosine_mean": 0, "flips": 0, "top1": 0}), reference, measured
    )
    worst = torch.cos(torch.tensor(1.8, dtype=torch.float64)).item()
    assert figures["cosine_min"] == pytest.approx(worst, abs=1e-6)
    assert figures["cosine_mean"] == pytest.approx((4 + worst) / 5, abs=1e-6)
    assert figures["flips"] == pytest.approx(0.2)
    assert figures["top1"] == pytest.approx(4 / 5)  # the fourth had the fifth as its neighbour
