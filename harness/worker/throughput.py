"""Latency of warmed-up calls: every sample kept, nothing else going on in the process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from harness.values import estimates
from harness.values.report import Timing
from harness.values.spec import RunSpec
from harness.worker.flops import encoder_flops, intermediate_size
from harness.worker.tokens import Batch
from harness.worker.window import Window, window

BAR_SECONDS = 0.5

Call = Callable[..., torch.Tensor]
Nanoseconds = NDArray[np.int64]
Milliseconds = NDArray[np.float64]


def time_calls(
    call: Call, batches: Sequence[Batch], *, seconds: float | None, iterations: int | None, title: str
) -> Nanoseconds:
    """Calls with each batch in turn for `seconds` (at least once) or `iterations` times; ns of each call."""
    samples: list[int] = []
    clock = time.perf_counter_ns
    # tqdm's monitor is a thread that would wake up inside the window.
    tqdm.monitor_interval = 0
    goal = iterations if seconds is None else None
    with torch.inference_mode(), tqdm(desc=title, total=goal, unit="call", leave=False, disable=None) as bar:
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
) -> tuple[Timing, dict[str, Milliseconds]]:
    """The timed part, after warm-up: the timing and every sample, in order of the calls, as samples.npz has
    them.
    """
    with window(alone=spec.host.instances == 1) as seen:
        samples = time_calls(
            call, batches, seconds=spec.run_time.seconds, iterations=spec.run_time.iterations, title="measure"
        )
        seen.sequences = len(samples) * spec.batch.size
    latency_ms = samples / 1e6
    return timing(latency_ms, latency_ms, batches, config, spec, seen), {"latency_ms": latency_ms}


def timing(
    latency_ms: Milliseconds,
    service_ms: Milliseconds,
    batches: Sequence[Batch],
    config: Any,
    spec: RunSpec,
    seen: Window,
    calls_per_s: float | None = None,
) -> Timing:
    """What the samples say.

    Rates are those of a typical call: a few slow ones do not move them. latency_ms: what a user waits;
    service_ms: what each call took. calls_per_s: the rate of calls where something else than the model
    decides it.
    """
    calls = calls_per_batch(len(service_ms), len(batches))
    rate = calls_per_s if calls_per_s is not None else 1e3 / typical_ms(service_ms, len(batches))
    valid = _mean([sum(batch.lengths()) for batch in batches], calls)
    padded = _mean([batch.padded_tokens() for batch in batches], calls)
    flops = _mean(
        [
            encoder_flops(
                batch.lengths(),
                num_layers=config.num_hidden_layers,
                hidden_size=config.hidden_size,
                intermediate_size=intermediate_size(config),
            )
            for batch in batches
        ],
        calls,
    )
    return Timing(
        count=len(latency_ms),
        elapsed_s=seen.elapsed_s,
        batch_size=spec.batch.size,
        seq_len=spec.batch.seq_len,
        latency_ms=estimates.latency_summary(latency_ms),
        throughput_sps=spec.batch.size * rate,
        valid_tokens_per_call=valid,
        skipped_tokens_per_call=padded if spec.backend.skip_padding else 0.0,
        padded_tokens_per_call=padded,
        tokens_per_s=valid * rate,
        tflops=flops * rate / 1e12,
        outliers=estimates.tukey_outliers(latency_ms),
        interference=seen.counters or {},
        noisy=bool(seen.noisy_because),
        noisy_because=seen.noisy_because,
        began_s=seen.began_s,
        observed=seen.observed,
        energy=seen.energy,
    )


def typical_ms(samples: Milliseconds, batches: int) -> float:
    """Mean over the calls of the median of each batch's own calls; the median where there is one batch.

    Batches of different lengths take different times: the median over all of them would be that of one in the
    middle, and say nothing of the long ones.
    """
    calls = calls_per_batch(len(samples), batches)
    return _mean(
        [estimates.median(samples[index::batches]) if n else 0.0 for index, n in enumerate(calls)], calls
    )


def calls_per_batch(calls: int, batches: int) -> list[int]:
    """How often each batch was used by `calls` calls that take them in turn."""
    return [calls // batches + (index < calls % batches) for index in range(batches)]


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return float(np.average(values, weights=weights))
