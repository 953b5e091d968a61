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

from bert_op._calibrate import call_model
from bert_op._library import build_info

REST = "rest of the op"
OUTSIDE = "outside the op"


@dataclass(frozen=True)
class PhaseTime:
    """One phase of all operator calls of a forward pass, mean of the passes that are reported.

    Attributes:
        phase: its name, in the order in which a layer runs. Then `rest of the op`: the mask, the start of the
            threads and waiting for those that end last. Then `outside the op`: the rest of the model.
        seconds: its time, as the calling thread sees it; waiting for other threads is included.
        operations: multiplications and additions of its matrix products; 0 where it has none.
        share: part of the whole forward pass, 0 to 1.
    """

    phase: str
    seconds: float
    operations: float
    share: float


@dataclass(frozen=True)
class Profile:
    """A forward pass by phase, mean of the faster half of those that were timed; `print` it for a table.

    Attributes:
        phases: their seconds add up to those of the pass.
        seconds: of the pass.
        passes: seconds of every pass that was timed, in the order in which they ran.
        precisions: what the operator computed in; several with `keep_layers` or several encoders.
        isa: tier of the kernels.
        threads: how many the operator was given.
        shapes: those of the input tensors, each once.
    """

    phases: tuple[PhaseTime, ...]
    seconds: float
    passes: tuple[float, ...]
    precisions: tuple[str, ...]
    isa: str
    threads: int
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        inputs = ", ".join(" x ".join(map(str, shape)) for shape in self.shapes)
        lines = [
            f"{' and '.join(self.precisions)} on {self.isa}, threads: {self.threads}, inputs: {inputs}",
            f"mean of the faster {_half(len(self.passes))} of {len(self.passes)} forward passes; all: "
            f"{min(self.passes) * 1e3:.3f} to {max(self.passes) * 1e3:.3f} ms, "
            f"median {statistics.median(self.passes) * 1e3:.3f}",
            f"{'phase':<18}{'ms':>9}{'T/s':>8}{'share':>8}",
        ]
        for row in self.phases:
            rate = f"{row.operations / row.seconds / 1e12:.2f}" if row.operations else ""
            lines.append(f"{row.phase:<18}{row.seconds * 1e3:>9.3f}{rate:>8}{row.share:>8.1%}")
        lines.append(f"{'forward pass':<18}{self.seconds * 1e3:>9.3f}")
        return "\n".join(lines)


def profile(model: nn.Module, inputs: Any, *, repeats: int = 7, warmup: int = 2) -> Profile:
    """Run `model` on `inputs` and tell where its time goes.

    The operator times its phases inside the very forward pass that is timed as a whole. Reported are means
    over the faster half of the passes, so the parts add up to the whole, as medians of each part would not,
    and what disturbed the slower half is left out.

    Args:
        model: in evaluation mode, with at least one encoder that runs by the operator; or what `jit.trace`,
            `jit.freeze`, `torch.compile` or `torch.export` made of one.
        inputs: what the model is called with: a mapping (keywords), for example what a tokenizer returns, a
            tuple or list (positions), or a tensor.
        repeats: forward passes that are timed, at least 1.
        warmup: forward passes before that; traced and compiled models need 2 or more to reach their speed.
    Returns:
        times of the phases of all operator calls of one forward pass, and of the rest of the model. Calls
        that the model makes from threads of its own are not seen, and count as outside.
    Raises:
        ValueError: no operator ran, `explain(model)` tells why; or `repeats` is below 1.
        TypeError: the inputs are no batch.
        RuntimeError: the model calls `profile` itself.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} leaves nothing to report: give at least 1.")
    with torch.inference_mode():
        for _ in range(warmup):
            call_model(model, inputs)
        timed = [_time_once(model, inputs) for _ in range(repeats)]
    faster = sorted(timed, key=lambda each: each[0])[: _half(repeats)]
    records = [record for _, record in faster]
    if not any(record["calls"] for record in records):
        raise ValueError(
            "no encoder of the model ran by the operator in this thread: bert_op.explain(model) says why"
        )
    seconds = statistics.fmean(total for total, _ in faster)
    in_op = statistics.fmean(record["seconds"] for record in records)
    rows = []
    for same in zip(*(record["phases"] for record in records), strict=True):
        took, count = (statistics.fmean(row[field] for row in same) for field in ("seconds", "operations"))
        rows.append((same[0]["phase"], took, count))
    rows.append((REST, in_op - sum(took for _, took, _ in rows), 0.0))
    rows.append((OUTSIDE, seconds - in_op, 0.0))
    return Profile(
        phases=tuple(PhaseTime(name, took, count, took / seconds) for name, took, count in rows),
        seconds=seconds,
        passes=tuple(total for total, _ in timed),
        precisions=tuple(dict.fromkeys(name for record in records for name in record["precisions"])),
        isa=build_info()["isa"],
        threads=torch.ops.bert_op.threads(),
        shapes=_shapes_of(inputs),
    )


def _half(passes: int) -> int:
    """How many of them are reported: of an odd number the one in the middle, too."""
    return (passes + 1) // 2


def _time_once(model: nn.Module, inputs: Any) -> tuple[float, dict[str, Any]]:
    """Seconds of one forward pass, and what the operator calls in it recorded."""
    torch.ops.bert_op.start_profile()
    try:
        start = time.perf_counter()
        call_model(model, inputs)
        seconds = time.perf_counter() - start
    finally:
        record = torch.ops.bert_op.stop_profile()
    return seconds, json.loads(record)


def _shapes_of(inputs: Any) -> tuple[tuple[int, ...], ...]:
    values = (
        inputs.values() if isinstance(inputs, Mapping) else [inputs] if isinstance(inputs, Tensor) else inputs
    )
    return tuple(dict.fromkeys(tuple(value.shape) for value in values if isinstance(value, Tensor)))
