"""Timed calls: how many, how long, and what is made of them."""

from __future__ import annotations

import io
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worker_tools import ARCHITECTURE, run_spec

from harness.values.spec import BackendSpec, BatchSpec, ModelSpec, RunTimeSpec
from harness.worker import throughput
from harness.worker.flops import encoder_flops
from harness.worker.tokens import Batch, random_batch
from harness.worker.window import Window

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
    seen = Window(elapsed_s=0.01, counters={"elapsed_s": 0.01}, noisy_because=("why",))
    result = throughput.timing(latency_ms, latency_ms, batches, CONFIG, spec, seen)
    assert (result.count, result.batch_size, result.seq_len) == (3, 2, 8)
    # Each batch's own median, 2 and 4 ms, by its calls: the short batches do not speak for the long ones.
    typical_s = (2 * 0.002 + 0.004) / 3
    assert result.throughput_sps == pytest.approx(2 / typical_s)
    assert result.latency_ms == {"p50": 2.0, "mean": pytest.approx(8 / 3), "min": 2.0, "max": 4.0}
    assert result.valid_tokens_per_call == pytest.approx((16 + 6 + 16) / 3)
    assert result.skipped_tokens_per_call == pytest.approx(10 / 3)
    assert result.tokens_per_s == pytest.approx(38 / 3 / typical_s)
    flops = 2 * encoder_flops([8, 8], **SIZE) + encoder_flops([4, 2], **SIZE)
    assert result.tflops == pytest.approx(flops / 3 / typical_s / 1e12)
    assert (result.noisy, result.noisy_because) == (True, ("why",))
    assert result.peak_fraction is None


def test_padding_that_is_computed_is_not_called_skipped() -> None:
    result = throughput.timing(
        np.array([1.0]), np.array([1.0]), [batch(lengths=[8, 1])], CONFIG, run_spec(ModelSpec("t")), Window()
    )
    assert (result.skipped_tokens_per_call, result.padded_tokens_per_call) == (0.0, 7.0)
    assert not result.noisy


def test_the_typical_call_of_one_batch_is_the_median() -> None:
    assert throughput.typical_ms(np.array([1.0, 50.0, 2.0]), 1) == 2.0
    assert throughput.typical_ms(np.array([1.0, 10.0, 3.0, 30.0, 5.0, 20.0]), 2) == (3.0 + 20.0) / 2


@pytest.mark.parametrize(
    ("calls", "batches", "expected"), [(5, 2, [3, 2]), (1, 3, [1, 0, 0]), (6, 3, [2, 2, 2])]
)
def test_calls_per_batch(calls: int, batches: int, expected: list[int]) -> None:
    assert throughput.calls_per_batch(calls, batches) == expected


def test_measure_keeps_every_sample() -> None:
    spec = run_spec(ModelSpec("tiny"), run_time=RunTimeSpec(iterations=70), batch=BatchSpec(2, 8))
    result, samples = throughput.measure(Counter(0.0005), [batch()], CONFIG, spec)
    latency_ms = samples["latency_ms"]
    assert (result.count, len(latency_ms), latency_ms.dtype) == (70, 70, np.float64)
    assert {"p90", "ci_low", "ci_high"} <= set(result.latency_ms)
    assert not {"p95", "p99"} & set(result.latency_ms)
    assert result.elapsed_s >= latency_ms.sum() / 1e3
    assert result.interference["elapsed_s"] == result.elapsed_s


class Screen(io.StringIO):
    """What a progress bar takes for a terminal, or for none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_a_progress_bar_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    samples = throughput.time_calls(Counter(), [batch()], seconds=None, iterations=3, title="measure")
    assert len(samples) == 3
    assert ("\r" in screen.getvalue() and "measure" in screen.getvalue()) == terminal
    assert terminal or screen.getvalue() == ""
