"""What each precision gains on this machine, on one BERT-base layer with random weights."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bert_op._policy import PRECISIONS, using

SHAPES = ((4, 128), (1, 16))
BASE = "Hugging Face fp32"

# From the most to the least exact. One has to be faster than those before it by so much to be worth its
# error.
_BY_EXACTNESS = ("fp32", "bf16", "fp32_qint8", "bf16_qint8")
_WORTH_IT = 1.1

_WARM_UP = 2
_LEAST_ROUNDS = 5
_MOST_ROUNDS = 300


@dataclass(frozen=True)
class Gains:
    """Times of one layer.

    Attributes:
        shapes: by name (`4 x 128`: batch, length), by contender (`Hugging Face fp32`, `bert_op bf16`), the
            median time of a call in seconds.
        rounds: by name of the shape, how many calls of each contender there were.
    """

    shapes: dict[str, dict[str, float]]
    rounds: dict[str, int]

    def gain(self, contender: str, shape: str | None = None) -> float:
        """How many times as fast as Hugging Face in fp32; without a shape, the geometric mean over all."""
        names = [shape] if shape else list(self.shapes)
        ratios = [self.shapes[name][BASE] / self.shapes[name][contender] for name in names]
        return math.prod(ratios) ** (1 / len(ratios))


def measure(seconds: float = 2.5) -> Gains:
    """Time a layer in each precision, and Hugging Face's own in fp32 and bf16, call by call in turn.

    So what the machine does meanwhile meets all alike, and none finds its weights in the cache because it was
    the last to run.

    Args:
        seconds: about how long each shape takes, after its first calls.
    """
    contenders = _contenders()
    times, rounds = {}, {}
    for batch, seq_len in SHAPES:
        name = f"{batch} x {seq_len}"
        times[name], rounds[name] = _medians(contenders, torch.randn(batch, seq_len, 768), seconds)
    return Gains(times, rounds)


def recommendation(gains: Gains) -> tuple[str, str | None]:
    """(a sentence, the line of code that does it); no line where nothing gains."""
    taken = _BY_EXACTNESS[0]
    for precision in _BY_EXACTNESS[1:]:
        if gains.gain(f"bert_op {precision}") >= _WORTH_IT * gains.gain(f"bert_op {taken}"):
            taken = precision
    gain = gains.gain(f"bert_op {taken}")
    if gain <= gains.gain("Hugging Face bf16") or gain <= 1:
        return "bert_op gains nothing here: run the models without it.", None
    caution = " Compare it on your own data" if taken != "fp32" else " It changes nothing but the speed"
    sentence = f"Take {taken}, {gain:.1f} times as fast as Hugging Face in fp32.{caution}:"
    return sentence, f'model = bert_op.optimize(model, "{taken}")'


def _contenders() -> dict[str, Callable[[Tensor], object]]:
    from transformers import BertConfig

    from bert_op._encoder import BertEncoderOp

    config = BertConfig(num_hidden_layers=1, attn_implementation="sdpa")
    original = BertEncoderOp.family.encoder(config).eval()
    in_bf16 = copy.deepcopy(original).to(torch.bfloat16)
    made: dict[str, Any] = {BASE: original, "Hugging Face bf16": lambda hidden: in_bf16(hidden.bfloat16())}
    for precision in PRECISIONS:
        with using(precision=precision, skip_padding=False):
            encoder: Any = BertEncoderOp(config)
        encoder.load_state_dict(original.state_dict(), assign=True)
        made[f"bert_op {precision}"] = encoder.eval()
    return made


def _medians(
    contenders: Mapping[str, Callable[[Tensor], object]], hidden_states: Tensor, seconds: float
) -> tuple[dict[str, float], int]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            for run in contenders.values():
                run(hidden_states)
        end = time.perf_counter() + seconds
        for done in itertools.count(1):
            for name, run in contenders.items():
                start = time.perf_counter()
                run(hidden_states)
                times[name].append(time.perf_counter() - start)
            if done >= _MOST_ROUNDS or (done >= _LEAST_ROUNDS and time.perf_counter() > end):
                break
    return {name: statistics.median(taken) for name, taken in times.items()}, done
