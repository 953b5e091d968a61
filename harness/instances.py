"""Several processes that measured at the same time, as one result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from harness import statistics
from harness.report import SAMPLES_FILE, Report, Timing
from harness.spec import RunSpec


def merge(spec: RunSpec, reports: list[Report], folders: list[Path], folder: Path) -> Report:
    """The first instance's report with everybody's timing: latencies pooled, throughputs added.

    Writes the pooled samples to `folder`. A failed instance fails the whole: the others then measured in
    another company than was asked for.
    """
    failures = [report.failure for report in reports if report.failure is not None]
    first = dataclasses.replace(reports[0], spec=spec)
    if failures:
        cause = next((failure for failure in failures if failure.kind != "stopped"), failures[0])
        return dataclasses.replace(first, status="failed", failure=cause, timing=None)
    timings = [report.timing for report in reports if report.timing is not None]
    if len(timings) < len(reports):
        return first
    samples = [np.load(place / SAMPLES_FILE)["latency_ms"] for place in folders]
    np.savez_compressed(folder / SAMPLES_FILE, latency_ms=np.concatenate(samples))
    return dataclasses.replace(
        first,
        timing=_pooled(timings, np.concatenate(samples)),
        instances=tuple(timing.throughput_sps for timing in timings),
        memory=dataclasses.replace(first.memory, peak_mb=_sum([r.memory.peak_mb for r in reports])),
    )


def latency_summary(samples: np.ndarray) -> dict[str, float]:
    """`Timing.latency_ms` of samples in ms; only what the number of samples supports."""
    summary = statistics.summarize(samples)
    values = {
        "p50": summary.p50, "mean": summary.mean, "min": summary.minimum, "max": summary.maximum,
        "ci_low": summary.ci_low, "ci_high": summary.ci_high,
        "p90": summary.p90, "p95": summary.p95, "p99": summary.p99,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def _pooled(timings: list[Timing], samples: np.ndarray) -> Timing:
    counters = sorted({name for timing in timings for name in timing.interference})
    return dataclasses.replace(
        timings[0],
        count=len(samples),
        elapsed_s=max(timing.elapsed_s for timing in timings),
        latency_ms=latency_summary(samples),
        throughput_sps=sum(timing.throughput_sps for timing in timings),
        tokens_per_s=_sum([timing.tokens_per_s for timing in timings]),
        tflops=_sum([timing.tflops for timing in timings]),
        peak_fraction=None,  # each instance's fraction is of a peak that it measured alone
        outliers=statistics.summarize(samples).outliers,
        interference={
            name: _together(name, [t.interference[name] for t in timings if name in t.interference])
            for name in counters
        },
        noisy=any(timing.noisy for timing in timings),
        noisy_because=tuple(dict.fromkeys(why for timing in timings for why in timing.noisy_because)),
    )


def _together(name: str, values: list[float]) -> float:
    """Counters of the instances add up; what each of them observed of the whole machine does not."""
    if name.startswith(("frequency_mhz", "runnable")):
        return max(values)
    return sum(values)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
