"""Reads variants from the folders and files that a user names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from harness.judge.variants import FORMAT, Subject, of_runs
from harness.sinks import axes, columns
from harness.values.errors import UserError
from harness.values.plain import read_json
from harness.values.report import PREDICTIONS_FILE, REPORT_FILE, Report


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


def is_frozen(file: Path) -> bool:
    """Whether `file` is what `frozen` makes."""
    try:
        plain = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(plain, dict) and {"format", "variants"} <= set(plain)


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
