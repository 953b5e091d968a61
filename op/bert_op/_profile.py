"""Where the time of a forward pass goes, phase by phase of the operator."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

OUTSIDE = "outside the op"


@dataclass(frozen=True)
class PhaseTime:
    """One phase of all layers of one forward pass.

    Attributes:
        phase: its name, in the order in which a layer runs; `outside the op` is the rest of the model.
        seconds: median time, as the first thread sees it; waiting for other threads is included.
        operations: multiplications and additions of its matrix products; 0 where it has none.
        share: part of the whole forward pass, 0 to 1.
    """

    phase: str
    seconds: float
    operations: float
    share: float


@dataclass(frozen=True)
class Profile:
    """A forward pass by phase; `print` it for a table."""

    phases: tuple[PhaseTime, ...]
    seconds: float

    def __str__(self) -> str:
        lines = [f"{'phase':<18}{'ms':>9}{'T/s':>8}{'share':>8}"]
        for row in self.phases:
            rate = f"{row.operations / row.seconds / 1e12:.2f}" if row.operations else ""
            lines.append(f"{row.phase:<18}{row.seconds * 1e3:>9.3f}{rate:>8}{row.share:>8.1%}")
        lines.append(f"{'forward pass':<18}{self.seconds * 1e3:>9.3f}")
        return "\n".join(lines)


class _Recorder(TorchDispatchMode):
    """Runs every operator call with its stopwatch on, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[dict[str, Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.bert_op.encoder.default:
            self.calls.append(json.loads(torch.ops.bert_op.profile(*args, **kwargs)))
        return function(*args, **kwargs)


def profile(model: nn.Module, inputs: Mapping[str, Tensor], *, repeats: int = 7, warmup: int = 2) -> Profile:
    """Run `model(**inputs)` and tell where its time goes.

    Args:
        model: in evaluation mode, with at least one encoder that runs by the operator.
        inputs: the model's keyword arguments, for example what a tokenizer returns.
        repeats: forward passes that are measured; each figure is the median.
        warmup: forward passes before that.
    Returns:
        times of the phases of all operator calls of one forward pass, and of the rest of the model.
    Raises:
        ValueError: no operator ran; `explain(model)` tells why.
    """
    totals: list[float] = []
    seconds: list[list[float]] = []
    operations: list[float] = []
    names: list[str] = []
    with torch.inference_mode():
        for _ in range(warmup):
            model(**inputs)
        for _ in range(repeats):
            start = time.perf_counter()
            model(**inputs)
            totals.append(time.perf_counter() - start)
            with _Recorder() as recorder:
                model(**inputs)
            if not recorder.calls:
                raise ValueError(
                    "no encoder of the model ran by the operator: bert_op.explain(model) says why"
                )
            names = [row["phase"] for row in recorder.calls[0]]
            seconds.append([sum(column) for column in _columns(recorder.calls, "seconds")])
            operations = [sum(column) for column in _columns(recorder.calls, "operations")]
    total = statistics.median(totals)
    medians = [statistics.median(values) for values in zip(*seconds, strict=True)]
    rows = [*zip(names, medians, operations, strict=True), (OUTSIDE, max(0.0, total - sum(medians)), 0.0)]
    return Profile(tuple(PhaseTime(name, took, count, took / total) for name, took, count in rows), total)


def _columns(calls: list[list[dict[str, Any]]], field: str) -> list[tuple[float, ...]]:
    return list(zip(*([row[field] for row in call] for call in calls), strict=True))
