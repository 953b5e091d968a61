"""What is compared: variants, read from the folders and files that a user names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import axes, columns, floors, repetitions
from harness.compare.processes import Process
from harness.errors import UserError
from harness.report import PREDICTIONS_FILE, REPORT_FILE, Report
from harness.values import read_json

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


def read(path: Path) -> list[Subject]:
    """The variants of a run's folder, of a sweep's folder, or of a file: report.json, or what `frozen`
    writes.

    Raises:
        UserError: it is none of these, or what it holds is no report.
    """
    try:
        if path.is_file():
            subjects = _of_file(path)
        else:
            one = [path] if (path / REPORT_FILE).is_file() else []
            folders = one or sorted((file.parent for file in path.glob(f"*/{REPORT_FILE}")), key=_number)
            subjects = of_runs([(Report.read(folder), folder) for folder in folders], path.resolve().name)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as problem:
        raise UserError(
            "results", str(path), f"cannot be read: {problem}",
            "Name a folder or a report.json that this version of the harness wrote",
        ) from problem  # fmt: skip
    subjects = told_apart(subjects)
    if not subjects:
        raise UserError(
            "results", str(path), "holds no run and no sweep",
            "Name a folder below outputs/runs or outputs/sweeps, a report.json, or a baseline's file",
        )  # fmt: skip
    return subjects


def read_all(paths: Sequence[Path]) -> list[list[Subject]]:
    """`read` of each path; those of one name get more of their paths as their source."""
    targets = [read(path) for path in paths]
    places = [os.path.abspath(path.parent if path.name == REPORT_FILE else path) for path in paths]
    sources = axes.tails(set(places))
    return [
        [dataclasses.replace(one, source=sources[place]) for one in target]
        for target, place in zip(targets, places, strict=True)
    ]


def told_apart(subjects: list[Subject]) -> list[Subject]:
    """The variants of one source, each with the settings that its name would not tell."""
    settings = columns.further([subject.report for subject in subjects])
    return [
        dataclasses.replace(one, setting=setting) for one, setting in zip(subjects, settings, strict=True)
    ]


def of_runs(runs: list[tuple[Report, Path]], source: str) -> list[Subject]:
    """The variants among the jobs in their folders, repetitions together."""
    folders = {id(report): folder for report, folder in runs}
    found = []
    for group in repetitions.groups([report for report, _ in runs]):
        files = [folders[id(report)] / PREDICTIONS_FILE for report in group]
        rows: list[dict[str, Any]] = next((read_json(file) for file in files if file.is_file()), [])
        found.append(Subject(source, repetitions.merge(group), tuple(rows)))
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


def is_frozen(file: Path) -> bool:
    """Whether `file` is what `frozen` makes."""
    try:
        plain = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(plain, dict) and {"format", "variants"} <= set(plain)


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


def _number(folder: Path) -> tuple[bool, str]:
    """Sorts jobs by their numbers, and what is no number behind them."""
    return not folder.name.isdigit(), folder.name.zfill(8)


def _of_file(path: Path) -> list[Subject]:
    plain = read_json(path)
    if "variants" not in plain:
        report = Report.from_plain(plain)
        beside = path.with_name(PREDICTIONS_FILE)
        rows = read_json(beside) if path.name == REPORT_FILE and beside.is_file() else []
        return [Subject(path.parent.name if path.name == REPORT_FILE else path.name, report, tuple(rows))]
    if plain.get("format") != FORMAT:
        raise ValueError(f"its format is {plain.get('format')}, and this version knows {FORMAT}")
    return [
        Subject(path.name, Report.from_plain(variant["report"]), tuple(variant["predictions"]))
        for variant in plain["variants"]
    ]
