"""Several processes that measured at the same time, as one result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from harness.judge.repeated import met_by_all
from harness.values import estimates, reserve
from harness.values.plain import write_text
from harness.values.report import PREDICTIONS_FILE, SAMPLES_FILE, Energy, Observed, Report, Server, Timing
from harness.values.spec import RunSpec

# Below this share of their windows that instances measured together, they had less company than asked for.
MIN_OVERLAP = 0.9
# Counters, by the beginning of their names, of what the instances share: time, the container's CPU limit, the
# whole machine.
SHARED_COUNTERS = ("elapsed_s", "quota_wait_s", "frequency_mhz", "runnable", "machine_")


def merge(spec: RunSpec, reports: list[Report], folders: list[Path], folder: Path) -> Report:
    """The first instance's report with everybody's timing: latencies pooled, throughputs added.

    Writes the pooled samples to `folder`, and the predictions of the instance that scored. A failed instance
    fails the whole: the others then measured in another company than was asked for.
    """
    _lift_predictions(folders, folder)
    failures = [report.failure for report in reports if report.failure is not None]
    first = dataclasses.replace(reports[0], spec=spec)
    if failures:
        cause = next((failure for failure in failures if failure.kind != "stopped"), failures[0])
        return dataclasses.replace(first, status="failed", failure=cause, timing=None)
    timings = [report.timing for report in reports if report.timing is not None]
    if len(timings) < len(reports):
        return first
    samples = _pooled_samples(folders)
    np.savez_compressed(folder / SAMPLES_FILE, **samples)
    return dataclasses.replace(
        first,
        timing=_pooled(timings, samples["latency_ms"]),
        instances=tuple(timing.throughput_sps for timing in timings),
        memory=dataclasses.replace(first.memory, peak_mb=_sum([r.memory.peak_mb for r in reports])),
    )


def _lift_predictions(folders: list[Path], folder: Path) -> None:
    """Whoever looks for the decisions of a run looks beside its report, not beside that of an instance."""
    found = next((file for place in folders if (file := place / PREDICTIONS_FILE).is_file()), None)
    if found is not None:
        text = found.read_text(encoding="utf-8")
        reserve.written(folder, lambda: write_text(folder / PREDICTIONS_FILE, text))


def _pooled_samples(folders: list[Path]) -> dict[str, Any]:
    """Everything that samples.npz of the instances holds, theirs one after the other."""
    found: dict[str, list[np.ndarray]] = {}
    for place in folders:
        with np.load(place / SAMPLES_FILE) as file:
            for name in file.files:
                found.setdefault(name, []).append(file[name])
    return {name: np.concatenate(parts) for name, parts in found.items()}


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
        latency_ms=estimates.latency_summary(samples),
        throughput_sps=sum(timing.throughput_sps for timing in timings),
        tokens_per_s=_sum([timing.tokens_per_s for timing in timings]),
        tflops=_sum([timing.tflops for timing in timings]),
        peak_fraction=None,  # each instance's fraction is of a peak that it measured alone
        outliers=estimates.summarize(samples).outliers,
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
    return dataclasses.replace(
        parts[0],
        rate=sum(part.rate for part in parts),
        achieved_rate=sum(part.achieved_rate for part in parts),
        service_ms=float(np.median([part.service_ms for part in parts])),
        met=met_by_all(parts),
    )


def _together(name: str, values: list[float]) -> float:
    """Counters of the instances add up; what each of them observed of the same thing does not."""
    return max(values) if name.startswith(SHARED_COUNTERS) else sum(values)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
