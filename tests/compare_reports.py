"""Reports as a measurement leaves them, made up: what the tests of comparing and gating share."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness_fixtures import a_spec

from harness.values.plain import write_json
from harness.values.report import Accuracy, Identity, Report, Timing
from harness.values.spec import BackendSpec

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
MACHINE = Identity(cpu="a CPU", torch="2.13", threads=2, affinity=(0, 1), fingerprint="f")


def a_report(p50: float = 10.0, backend: str = "op", *, at: float = 0.0, **spec: Any) -> Report:
    """A finished report with a median of `p50` ms, begun `at` seconds after BEGIN."""
    latency = {"p50": p50, "min": 0.9 * p50, "max": 2 * p50, "ci_low": 0.999 * p50, "ci_high": 1.001 * p50}
    return Report(
        a_spec(backend=BackendSpec(backend), **spec),
        "finished",
        identity=MACHINE,
        timing=Timing(99, 1.0, 2, 8, latency, 2000 / p50, 16.0),
        accuracy=Accuracy(20, 0.9, f1=0.9, data_digest="d"),
        started_at=(BEGIN + timedelta(seconds=at)).isoformat(),
    )


def save(report: Report, folder: Path, wrong: int = 2) -> Path:
    """Writes the report and 20 decisions, of which the first `wrong` miss their label."""
    report.write(folder)
    rows = [{"index": i, "label": i % 2, "decision": i % 2 ^ (i < wrong)} for i in range(20)]
    write_json(folder / "predictions.json", [{**row, "decision": int(row["decision"])} for row in rows])
    return folder


def save_sweep(folder: Path, factors: dict[str, float], rounds: int = 10) -> Path:
    """A sweep of backends that took turns; factors: of their latencies to 10 ms, with a little noise."""
    number = 0
    for turn in range(rounds):
        for backend, factor in factors.items():
            p50 = 10 * factor * (1 + 0.002 * ((7 * turn + 3 * number) % 5))
            report = a_report(p50, backend, at=5.0 * number, repetitions=rounds, repetition=turn)
            save(report, folder / str(number))
            number += 1
    return folder


def with_identity(report: Report, **changes: Any) -> Report:
    """The report of another environment."""
    identity = dataclasses.replace(report.identity, fingerprint="other", **changes)
    return dataclasses.replace(report, identity=identity)
