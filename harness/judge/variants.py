"""What is compared: variants, each a report with all its repetitions, and the processes behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.judge import floors, repeated
from harness.judge.processes import Process
from harness.values.plain import read_json
from harness.values.report import PREDICTIONS_FILE, Report

FORMAT = 1


@dataclass(frozen=True)
class Subject:
    """One variant: a run, or all its repetitions as one report. predictions: rows of predictions.json, []
    where there are none. setting: what else tells it apart from the others of its source.
    """

    source: str
    report: Report
    predictions: tuple[dict[str, Any], ...] = ()
    setting: str = ""

    @property
    def name(self) -> str:
        """`op-bf16 minilm 4x128 seed 1 (source)`."""
        batch, setting = self.report.spec.batch, f" {self.setting}" if self.setting else ""
        what = f"{self.report.spec.contender} {self.report.spec.model.name} {batch.size}x{batch.seq_len}"
        return f"{what}{setting} ({self.source})"


def of_runs(runs: list[tuple[Report, Path]], source: str) -> list[Subject]:
    """The variants among the jobs in their folders, repetitions together."""
    folders = {id(report): folder for report, folder in runs}
    found = []
    for group in repeated.groups([report for report, _ in runs]):
        files = [folders[id(report)] / PREDICTIONS_FILE for report in group]
        rows: list[dict[str, Any]] = next((read_json(file) for file in files if file.is_file()), [])
        found.append(Subject(source, repeated.merge(group), tuple(rows)))
    return found


def frozen(subjects: list[Subject]) -> dict[str, Any]:
    """As JSON types, complete by itself: what a pinned baseline is, and what a sweep leaves in
    results.json.
    """
    variants = [
        {"report": subject.report.to_plain(), "predictions": list(subject.predictions)}
        for subject in subjects
    ]
    return {"format": FORMAT, "variants": variants}


def processes(report: Report) -> list[Process]:
    """The processes behind a report with a timing. Of one that was disturbed, anything from its fastest call
    to its median may have been its undisturbed latency.
    """
    seen = floors.seen_by(report)
    if report.repeated is not None:
        return [
            Process(
                one.p50_ms,
                one.min_ms if one.noisy else one.p50_ms if one.low_ms is None else one.low_ms,
                one.p50_ms if one.high_ms is None else one.high_ms,
                one.number,
                one.started_at,
                one.min_ms,
                what,
                one.noisy,
            )
            for one, what in zip(report.repeated.measured, seen, strict=True)
        ]
    if report.timing is None:
        return []
    latency, noisy = report.timing.latency_ms, report.timing.noisy
    p50 = latency["p50"]
    low, high = latency.get("ci_low"), latency.get("ci_high")
    if low is None or high is None:  # too few calls for an interval: all that was seen
        low, high = latency.get("min", p50), latency.get("max", p50)
    if noisy:
        low = latency.get("min", low)
    number, began = report.spec.repetition, report.started_at
    return [Process(p50, low, high, number, began, latency.get("min"), seen[0], noisy)]
