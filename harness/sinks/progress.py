"""What a sweep says while it goes on: which job begins, what came of it, how long the rest will take."""

from __future__ import annotations

from harness.values.report import Report

MINUTE, HOUR = 60, 3600


def place(number: int, total: int | None) -> str:
    """`[3/8]` for the job of number 2; without the total where nobody knows it."""
    return f"[{number + 1}]" if total is None else f"[{number + 1}/{total}]"


def result(report: Report) -> str:
    """What came of a job, in one line; numbers that were not measured are left out."""
    timing, accuracy, parts = report.timing, report.accuracy, []
    if report.status != "finished":
        parts.append("not installed" if report.not_installed else report.status)
    if timing is not None:
        parts.append(f"{timing.throughput_sps:.1f} seq/s")
        parts += [
            f"{name} {timing.latency_ms[name]:.2f} ms" for name in ("p50",) if name in timing.latency_ms
        ]
    if timing is not None and timing.server is not None:
        parts += [f"p99 {timing.latency_ms['p99']:.2f} ms"] if "p99" in timing.latency_ms else []
        parts.append(f"{timing.server.rate:.2f} queries/s")
    if accuracy is not None:
        for name in ("accuracy", "agreement"):
            share = getattr(accuracy, name)
            parts += [] if share is None else [f"{name} {100 * share:.1f} %"]
        if accuracy.agreement is None and accuracy.cosine_min is not None:
            parts.append(f"cosine {accuracy.cosine_min:.4f}")
    return ", ".join(parts) or report.status


def seconds_left(elapsed: float, done: int, left: int) -> float | None:
    """How long `left` jobs will take if they are like the `done` ones that took `elapsed` seconds together;
    None where none is done. Jobs that run side by side have shared that time, and will again.
    """
    return elapsed / done * left if done > 0 else None


def duration(seconds: float) -> str:
    """A length of time as people say it: `40 s`, `5 min`, `2 h 10 min`."""
    if seconds < 1.5 * MINUTE:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / MINUTE)
    if minutes < MINUTE:
        return f"{minutes} min"
    return f"{minutes // MINUTE} h" + (f" {minutes % MINUTE} min" if minutes % MINUTE else "")
