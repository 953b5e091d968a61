"""The repetitions of one thing as one report: their medians, and what each process said.

How they come about, and why the process is what is repeated: harness/run/repetitions.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.values import estimates
from harness.values.report import Energy, Failure, Repeated, Repetition, Report, Retrieval, Server, Timing
from harness.values.spec import RunSpec


def variant(spec: RunSpec) -> str:
    """What is equal for all repetitions of one thing, and differs between things."""
    same = dataclasses.replace(spec, repetition=0, instance=0, barrier=None)
    return json.dumps(same.to_plain(), sort_keys=True)


def groups(reports: list[Report]) -> list[list[Report]]:
    """The reports by variant, in order of first appearance; each group in order of its repetitions."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        found.setdefault(variant(report.spec), []).append(report)
    return [sorted(group, key=lambda report: report.spec.repetition) for group in found.values()]


def merged(reports: list[Report]) -> list[Report]:
    """One report for each variant; a variant that was measured once keeps its own."""
    return [merge(group) for group in groups(reports)]


def merge(group: list[Report]) -> Report:
    """Repetitions of one variant as one report: every number of its timing is the median over the processes,
    and `repeated` holds what each of them said. A failed repetition fails the whole, but the others still
    count.
    """
    first = group[0]
    if len(group) == 1 and (first.spec.repetitions == 1 or first.repeated is not None):
        return first
    measured = [report for report in group if report.timing is not None]
    medians = [report.timing.latency_ms["p50"] for report in measured if report.timing is not None]
    failed = [report for report in group if report.failure is not None]
    failure = None
    if failed and failed[0].failure is not None:
        told = failed[0].failure
        place = f"repetition {failed[0].spec.repetition} of {first.spec.repetitions}"
        others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        failure = Failure(told.kind, f"{place}{others}: {told.message}", told.phase)
    unfinished = [report.status for report in group if report.status != "finished"]
    best = next((report for report in group if report.accuracy is not None), first)
    return dataclasses.replace(
        measured[0] if measured else first,
        spec=dataclasses.replace(first.spec, repetition=0),
        status=unfinished[0] if unfinished else "finished",
        failure=failure,
        accuracy=best.accuracy,
        retrieval=_retrieval(best, measured),
        timing=_timing(measured),
        repeated=Repeated(
            asked=first.spec.repetitions,
            measured=tuple(_repetition(report, report.timing) for report in measured if report.timing),
            spread=estimates.coefficient_of_variation(medians) if len(medians) > 1 else None,
        ),
    )


def _retrieval(best: Report, measured: list[Report]) -> Retrieval | None:
    """What the search found once, with the median of what tokenizing took in each process."""
    found = [report.retrieval for report in measured if report.retrieval is not None]
    seconds = [one.tokenize_s for one in found if one.tokenize_s is not None]
    if best.retrieval is None or not seconds or len(seconds) < len(measured):
        return best.retrieval
    return dataclasses.replace(best.retrieval, tokenize_s=estimates.median(seconds))


def _repetition(report: Report, timing: Timing) -> Repetition:
    return Repetition(
        number=report.spec.repetition,
        p50_ms=timing.latency_ms["p50"],
        min_ms=timing.latency_ms.get("min", timing.latency_ms["p50"]),
        throughput_sps=timing.throughput_sps,
        started_at=report.started_at,
        noisy=timing.noisy,
        low_ms=timing.latency_ms.get("ci_low"),
        high_ms=timing.latency_ms.get("ci_high"),
        calls=timing.count,
        elapsed_s=timing.elapsed_s,
    )


def _timing(reports: list[Report]) -> Timing | None:
    """Field by field the median, of what all of them have; calls and outliers add up."""
    timings = [report.timing for report in reports if report.timing is not None]
    if not timings:
        return None
    changes = _middles(timings)
    interval = estimates.median_interval([timing.latency_ms["p50"] for timing in timings])
    latency = {
        name: value for name, value in changes["latency_ms"].items() if name not in ("ci_low", "ci_high")
    }
    if interval is not None:
        latency |= {"ci_low": interval.low, "ci_high": interval.high}
    latency |= {
        "min": min(timing.latency_ms.get("min", timing.latency_ms["p50"]) for timing in timings),
        "max": max(timing.latency_ms.get("max", timing.latency_ms["p50"]) for timing in timings),
    }
    outliers = [timing.outliers for timing in timings if timing.outliers is not None]
    noisy = [str(report.spec.repetition) for report in reports if report.timing and report.timing.noisy]
    word = "repetition" if len(noisy) == 1 else "repetitions"
    told = f"{word} {', '.join(noisy)} of {reports[0].spec.repetitions}"
    return dataclasses.replace(
        timings[0],
        **changes
        | {
            "count": sum(timing.count for timing in timings),
            "elapsed_s": sum(timing.elapsed_s for timing in timings),
            "outliers": sum(outliers) if len(outliers) == len(timings) else None,
            "latency_ms": latency,
            "noisy": bool(noisy),
            "noisy_because": (told,) if noisy else (),
            "energy": _energy([timing.energy for timing in timings]),
            "server": _server([timing.server for timing in timings if timing.server is not None]),
        },
    )


def _energy(parts: list[Energy]) -> Energy:
    """Medians; where one could not be read, why."""
    unread = next((part for part in parts if part.joules is None), None)
    return unread or Energy(**_middles(parts))


def _server(parts: list[Server]) -> Server | None:
    """Medians, the bound met when every process has met it, and all the rates that any of them tried."""
    if not parts:
        return None
    probes = tuple(probe for part in parts for probe in part.probes)
    return Server(**_middles(parts) | {"met": met_by_all(parts), "probes": probes})


def met_by_all(parts: list[Server]) -> bool | None:
    """Whether each of `parts` has met its bound; None where one does not know and none has missed it."""
    met = [part.met for part in parts]
    return False if False in met else (None if None in met else True)


def _middles(values: Sequence[Any]) -> dict[str, Any]:
    """`_middle` of every field of dataclasses of one kind."""
    return {
        field.name: _middle([getattr(value, field.name) for value in values])
        for field in dataclasses.fields(values[0])
    }


def _middle(values: list[Any]) -> Any:
    """The median of numbers, of each entry of dictionaries of numbers; of anything else the first."""
    if all(isinstance(value, dict) for value in values):
        shared = [name for name in values[0] if all(name in value for value in values)]
        return {name: _middle([value[name] for value in values]) for name in shared}
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return float(np.median(values))
    if any(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None  # not all of them have it
    return values[0]
