"""Latency of warmed-up calls: every sample kept, nothing else going on in the process."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from harness import statistics
from harness.instances import latency_summary
from harness.report import Timing
from harness.spec import RunSpec
from harness.worker import machine
from harness.worker.flops import encoder_flops
from harness.worker.tokens import Batch

BAR_SECONDS = 0.5

Call = Callable[..., torch.Tensor]
Nanoseconds = NDArray[np.int64]


def time_calls(
    call: Call, batches: Sequence[Batch], *, seconds: float | None, iterations: int | None, title: str
) -> Nanoseconds:
    """Calls with each batch in turn for `seconds` (at least once) or `iterations` times; ns of each call."""
    samples: list[int] = []
    clock = time.perf_counter_ns
    # tqdm's monitor is a thread that would wake up inside the window.
    tqdm.monitor_interval = 0
    goal = iterations if seconds is None else None
    with torch.inference_mode(), tqdm(desc=title, total=goal, unit="call", leave=False) as bar:
        begin = shown = clock()
        for batch in itertools.cycle(batches):
            if goal is not None and len(samples) >= goal:
                break
            start = clock()
            call(*batch.inputs)
            end = clock()
            samples.append(end - start)
            if seconds is not None and end - begin >= seconds * 1e9:
                break
            if end - shown >= BAR_SECONDS * 1e9:
                bar.update(len(samples) - bar.n)
                shown = clock()
        bar.update(len(samples) - bar.n)
    return np.asarray(samples, dtype=np.int64)


def measure(
    call: Call, batches: Sequence[Batch], config: transformers.BertConfig, spec: RunSpec
) -> tuple[Timing, NDArray[np.float64]]:
    """The timed part, after warm-up: the timing and every latency in ms, in order of the calls."""
    before = machine.snapshot()
    begin = time.perf_counter()
    samples = time_calls(
        call, batches, seconds=spec.run_time.seconds, iterations=spec.run_time.iterations, title="measure"
    )
    elapsed = time.perf_counter() - begin
    counters = machine.interference(before, machine.snapshot(), elapsed)
    reasons = machine.noisy_because(counters, len(os.sched_getaffinity(0)))
    latency_ms = samples / 1e6
    return timing(latency_ms, batches, config, spec, elapsed, counters, reasons), latency_ms


def timing(
    latency_ms: NDArray[np.float64],
    batches: Sequence[Batch],
    config: Any,
    spec: RunSpec,
    elapsed_s: float,
    counters: dict[str, float],
    reasons: tuple[str, ...],
) -> Timing:
    """What the samples say. Throughput and rates are those at the median: a few slow calls do not move it."""
    median_s = statistics.median(latency_ms) / 1e3
    calls = calls_per_batch(len(latency_ms), len(batches))
    valid = _mean([sum(batch.lengths()) for batch in batches], calls)
    padded = _mean([batch.padded_tokens() for batch in batches], calls)
    flops = _mean(
        [
            encoder_flops(
                batch.lengths(),
                num_layers=config.num_hidden_layers,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
            )
            for batch in batches
        ],
        calls,
    )
    return Timing(
        count=len(latency_ms),
        elapsed_s=elapsed_s,
        batch_size=spec.batch.size,
        seq_len=spec.batch.seq_len,
        latency_ms=latency_summary(latency_ms),
        throughput_sps=spec.batch.size / median_s,
        valid_tokens_per_call=valid,
        skipped_tokens_per_call=padded if spec.backend.skip_padding else 0.0,
        tokens_per_s=valid / median_s,
        tflops=flops / median_s / 1e12,
        outliers=statistics.tukey_outliers(latency_ms),
        interference=counters,
        noisy=bool(reasons),
        noisy_because=reasons,
    )


def calls_per_batch(calls: int, batches: int) -> list[int]:
    """How often each batch was used by `calls` calls that take them in turn."""
    return [calls // batches + (index < calls % batches) for index in range(batches)]


def _mean(values: Sequence[int], weights: Sequence[int]) -> float:
    return float(np.average(values, weights=weights))
