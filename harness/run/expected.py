"""How long a job will take, as far as its settings and what was measured before tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.values.report import REPORT_FILE, Report
from harness.values.spec import RunSpec, warmup

# Reports that are looked at, the newest first.
NEWEST = 200


@dataclass(frozen=True)
class Expected:
    """seconds: of a job. whole: False where some of it is not known, so that it takes at least that long."""

    seconds: float
    whole: bool


def total(parts: Iterable[Expected]) -> Expected:
    """Of jobs one after another."""
    parts = list(parts)
    return Expected(sum(part.seconds for part in parts), all(part.whole for part in parts))


def of(spec: RunSpec, earlier: Sequence[Report]) -> Expected:
    """Warm-up and measurement as the settings say, and around it what a job like it took. earlier: reports of
    this machine, the newest first; of those that are like it the closest counts.
    """
    timed, around = _timed(spec, earlier), _around(spec, earlier)
    return Expected((timed or 0.0) + (around or 0.0), timed is not None and around is not None)


def reports(roots: Iterable[Path]) -> list[Report]:
    """The newest reports of runs and sweeps below `roots`; what cannot be read is left out."""
    files = {file for root in roots for depth in ("*", "*/*") for file in root.glob(f"{depth}/{REPORT_FILE}")}
    found = []
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:NEWEST]:
        try:
            found.append(Report.read(file.parent))
        except (OSError, ValueError, TypeError):
            continue
    return found


def _timed(spec: RunSpec, earlier: Sequence[Report]) -> float | None:
    """Seconds of warm-up and measurement; None where they depend on what is found."""
    if not spec.measure.throughput:
        return 0.0
    if spec.load.name == "server" and spec.load.rate is None:
        return None  # it searches
    seconds, calls = warmup(spec.run_time)
    counted = (calls or 0) + (spec.run_time.iterations or 0)
    known = (seconds or 0.0) + (spec.run_time.seconds or 0.0)
    if not counted:
        return known
    for report in earlier:
        if report.timing is not None and _same(
            report.spec, spec, "model", "backend", "precision", "batch", "host"
        ):
            return known + counted * report.timing.latency_ms["mean"] / 1000
    return None


def _around(spec: RunSpec, earlier: Sequence[Report]) -> float | None:
    """Seconds of everything else: starting, loading, converting, scoring."""
    alike = [
        report
        for report in earlier
        if report.status == "finished"
        and report.wall_s is not None
        and _same(report.spec, spec, "model", "measure")
        and (not spec.measure.accuracy or report.spec.data == spec.data)
    ]
    closest = ("backend", "precision", "batch", "host")
    alike.sort(key=lambda report: -sum(_same(report.spec, spec, name) for name in closest))
    return _rest(alike[0]) if alike else None


def _rest(report: Report) -> float:
    timed = (report.phases.warmup_s or 0.0) + (report.timing.elapsed_s if report.timing is not None else 0.0)
    return max(0.0, (report.wall_s or 0.0) - timed)


def _same(one: RunSpec, other: RunSpec, *names: str) -> bool:
    first, second = (dataclasses.asdict(spec) for spec in (one, other))
    return all(first[name] == second[name] for name in names)
