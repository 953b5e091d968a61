"""Timed calls: how many, how long, and what is made of them."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worker_tools import ARCHITECTURE, run_spec

from harness.spec import BackendSpec, BatchSpec, ModelSpec, RunTimeSpec
from harness.worker import throughput
from harness.worker.flops import encoder_flops
from harness.worker.tokens import Batch, random_batch

CONFIG = SimpleNamespace(**ARCHITECTURE)
SIZE = {name: ARCHITECTURE[name] for name in ("hidden_size", "intermediate_size")} | {
    "num_layers": ARCHITECTURE["num_hidden_layers"]
}


class Counter:
    """A model that takes a known time and remembers its calls."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.rows: list[int] = []
        self.inference: list[bool] = []

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(inputs[0]))
        self.inference.append(torch.is_inference_mode_enabled())
        time.sleep(self.seconds)
        return inputs[0]


def batch(rows: int = 2, lengths: list[int] | None = None, seq_len: int = 8) -> Batch:
    return random_batch(10, lengths or [seq_len] * rows, seq_len, seed=0)


def test_by_count_every_call_is_kept_and_batches_take_turns() -> None:
    model = Counter()
    samples = throughput.time_calls(model, [batch(1), batch(2)], seconds=None, iterations=5, title="t")
    assert len(samples) == 5
    assert model.rows == [1, 2, 1, 2, 1]
    assert all(model.inference)


def test_by_time() -> None:
    samples = throughput.time_calls(Counter(0.01), [batch()], seconds=0.1, iterations=None, title="t")
    assert 2 <= len(samples) <= 11
    assert samples.min() >= 10e6, "nanoseconds of a call, not more, not less"
    assert samples.sum() >= 0.09e9


def test_by_time_at_least_one_call_is_made() -> None:
    assert (
        len(throughput.time_calls(Counter(0.02), [batch()], seconds=0.001, iterations=None, title="t")) == 1
    )


def test_timing_by_hand() -> None:
    batches = [batch(lengths=[8, 8]), batch(lengths=[4, 2])]
    spec = run_spec(ModelSpec("tiny"), backend=BackendSpec("op", "eager", skip_padding=True))
    latency_ms = np.array([2.0, 4.0, 2.0])
    result = throughput.timing(latency_ms, batches, CONFIG, spec, 0.01, {"elapsed_s": 0.01}, ("why",))
    assert (result.count, result.batch_size, result.seq_len) == (3, 2, 8)
    assert result.throughput_sps == pytest.approx(2 / 0.002)
    assert result.latency_ms == {"p50": 2.0, "mean": pytest.approx(8 / 3), "min": 2.0, "max": 4.0}
    assert result.valid_tokens_per_call == pytest.approx((16 + 6 + 16) / 3)
    assert result.skipped_tokens_per_call == pytest.approx(10 / 3)
    assert result.tokens_per_s == pytest.approx(38 / 3 / 0.002)
    flops = 2 * encoder_flops([8, 8], **SIZE) + encoder_flops([4, 2], **SIZE)
    assert result.tflops == pytest.approx(flops / 3 / 0.002 / 1e12)
    assert (result.noisy, result.noisy_because) == (True, ("why",))
    assert result.peak_fraction is None


def test_padding_that_is_computed_is_not_called_skipped() -> None:
    result = throughput.timing(
        np.array([1.0]),
        [batch(lengths=[8, 1])],
        CONFIG,
        run_spec(ModelSpec("t")),
        1.0,
        {"elapsed_s": 1.0},
        (),
    )
    assert (result.skipped_tokens_per_call, result.noisy) == (0.0, False)


@pytest.mark.parametrize(
    ("calls", "batches", "expected"), [(5, 2, [3, 2]), (1, 3, [1, 0, 0]), (6, 3, [2, 2, 2])]
)
def test_calls_per_batch(calls: int, batches: int, expected: list[int]) -> None:
    assert throughput.calls_per_batch(calls, batches) == expected


def test_measure_keeps_every_sample() -> None:
    spec = run_spec(ModelSpec("tiny"), run_time=RunTimeSpec(iterations=70), batch=BatchSpec(2, 8))
    result, latency_ms = throughput.measure(Counter(), [batch()], CONFIG, spec)
    assert (result.count, len(latency_ms), latency_ms.dtype) == (70, 70, np.float64)
    assert {"p90", "ci_low", "ci_high"} <= set(result.latency_ms)
    assert not {"p95", "p99"} & set(result.latency_ms)
    assert result.elapsed_s >= latency_ms.sum() / 1e3
    assert result.interference["elapsed_s"] == result.elapsed_s
