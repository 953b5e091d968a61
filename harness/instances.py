"""Several processes that measured at the same time, as one result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from harness import statistics
from harness.report import SAMPLES_FILE, Energy, Observed, Report, Server, Timing
from harness.spec import RunSpec

# Instances that measured together for less than this share of their windows had less company than was asked
# for.
MIN_OVERLAP = 0.9


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
    together = overlap([(t.began_s, t.elapsed_s) for t in timings if t.began_s is not None])
    alone = (
        [f"the instances measured together for only {together:.0%} of the time"]
        if together < MIN_OVERLAP
        else []
    )
    reasons = tuple(dict.fromkeys([*(why for timing in timings for why in timing.noisy_because), *alone]))
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
        noisy=bool(reasons),
        noisy_because=reasons,
        observed=_observed([timing.observed for timing in timings if timing.observed is not None]),
        energy=_energy(timings),
        server=_server([timing.server for timing in timings if timing.server is not None]),
    )


def overlap(windows: list[tuple[float, float]]) -> float:
    """Share of the longest of `windows` (start, length; one clock) in which all of them were going on."""
    if not windows:
        return 1.0
    common = min(start + length for start, length in windows) - max(start for start, _ in windows)
    longest = max(length for _, length in windows)
    return max(0.0, common) / longest if longest > 0 else 1.0


def spread(throughputs: tuple[float, ...]) -> float:
    """(highest - lowest) / mean of the instances' throughputs."""
    return (max(throughputs) - min(throughputs)) / (sum(throughputs) / len(throughputs))


def _observed(parts: list[Observed]) -> Observed | None:
    """Threads add up; cores and nodes are those of any instance."""
    if not parts:
        return None
    nodes = sorted({node for part in parts for node in part.memory_nodes})
    return dataclasses.replace(
        parts[0],
        threads=sum(part.threads for part in parts),
        cores=tuple(sorted({core for part in parts for core in part.cores})),
        numa_nodes=tuple(sorted({node for part in parts for node in part.numa_nodes})),
        memory_nodes={n: sum(part.memory_nodes.get(n, 0.0) for part in parts) / len(parts) for n in nodes},
    )


def _energy(timings: list[Timing]) -> Energy:
    """Every instance has read the same packages: the longest reading is that of all of them."""
    read = [timing.energy.joules for timing in timings if timing.energy.joules is not None]
    if len(read) < len(timings):
        return next(timing.energy for timing in timings if timing.energy.joules is None)
    return Energy(max(read), max(read) / sum(timing.count * timing.batch_size for timing in timings))


def _server(parts: list[Server]) -> Server | None:
    """Rates add up; the bound is met when every instance has met it."""
    if not parts:
        return None
    met = [part.met for part in parts]
    return dataclasses.replace(
        parts[0],
        rate=sum(part.rate for part in parts),
        achieved_rate=sum(part.achieved_rate for part in parts),
        service_ms=float(np.median([part.service_ms for part in parts])),
        met=False if False in met else (None if None in met else True),
    )


def _together(name: str, values: list[float]) -> float:
    """Counters of the instances add up; what each of them observed of the whole machine does not."""
    if name.startswith(("frequency_mhz", "runnable", "machine_")):
        return max(values)
    return sum(values)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
