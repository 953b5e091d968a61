"""The summary that a user reads: one row for each job, made once for console, Markdown, CSV and chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.judge import baseline, floors
from harness.sinks import load_notes
from harness.sinks.columns import (
    CHOICE,
    CONTENDER,
    INTERVAL,
    LOADED,
    REPEATED,
    RESULTS,
    SERVED,
    SETTINGS,
    USUAL,
    Column,
    Row,
    found,
    labels,
    settings,
)
from harness.values.errors import UserError
from harness.values.report import Report, Timing
from harness.values.view import View

USUAL_VIEW = View()


def check(view: View) -> None:
    """UserError for a column that is none of CHOICE."""
    for name in view.columns:
        if name not in CHOICE:
            remedy = f"Use some of {', '.join(CHOICE)}"
            raise UserError("table.columns", name, "is no column that can be added", remedy)


def rows(reports: list[Report], view: View = USUAL_VIEW) -> list[Row]:
    """The rows of a sweep, with each job's speed-up: ratio of its throughput to that of its baseline; None
    where one of the two made too few calls.
    """
    found = [baseline.of(report, reports, view.baseline) for report in reports]
    return [
        Row(report, _speedup(report, other), None if other is None else other.spec.contender)
        for report, other in zip(reports, found, strict=True)
    ]


def columns(reports: Sequence[Report], view: View = USUAL_VIEW) -> list[Column]:
    """The columns that these jobs need, and those that the view adds: a setting that is the same for all of
    them is left to the title, and what was measured of none of them has no column."""
    loaded = LOADED if any(report.spec.load.name != "offline" for report in reports) else ()
    served = SERVED if any(report.spec.load.name == "server" for report in reports) else ()
    groups = [report for report in reports if report.repeated is not None]
    repeated = REPEATED if groups else ()
    known = any(report.timing is not None and "ci_low" in report.timing.latency_ms for report in groups)
    interval = INTERVAL if known else ()
    body = rows(list(reports), view)
    added = [column for name in view.columns for column in CHOICE[name]]
    usual = [*RESULTS, *loaded, *interval]
    results = [column for column in dict.fromkeys([*usual, *added]) if _any(column, body)]
    return [CONTENDER, *settings(reports), *repeated, *served, *results]


def _any(column: Column, body: Sequence[Row]) -> bool:
    return any(column.value(row) is not None for row in body)


def title(reports: list[Report]) -> str:
    """What the jobs have in common, in one line."""
    values = {column.title: found(column, reports) for column in SETTINGS}
    common = {name: value[0] for name, value in values.items() if len(value) == 1}
    return ", ".join(f"{name} {value}" for name, value in common.items() if value != USUAL.get(name))


def notes(reports: list[Report], view: View = USUAL_VIEW) -> list[str]:
    """Sentences without which the numbers could mislead; each once."""
    named = list(zip(reports, labels(reports), strict=True))
    told = [note for report, name in named for note in _notes_of(report, name)]
    against = _against(reports, view)
    others = [*against, *_unmeasured(reports, view), *_too_few(named), *_uncertainty(reports)]
    others += _repeats(reports)
    return [*dict.fromkeys(told), *others, *_noise(named)]


def _notes_of(report: Report, name: str) -> list[str]:
    timing, told = report.timing, []
    if report.failure is not None:
        message = report.failure.message
        told.append(message if report.not_installed else f"{name} failed: {message}")
    if report.identity.weights_source == "random":
        told.append(f"Good for speed, not for accuracy: {report.identity.weights_reason}.")
    if report.accuracy is not None and report.accuracy.absent_because:
        told.append(f"Accuracy was not measured: {report.accuracy.absent_because}.")
    told += [_kept(guard, name) for guard in _guards(report)]
    told += [*load_notes.of(report, name), *load_notes.retrieval(report, name)]
    if timing is not None and timing.skipped_tokens_per_call:
        share = timing.skipped_tokens_per_call / _positions(timing)
        told.append(f"{name} skipped padding: {share:.0%} of the token positions were not computed.")
    return told


def _guards(report: Report) -> list[dict[str, Any]]:
    """What the op kept unquantized for precision.target."""
    found = [encoder.get("guard") for encoder in report.op.get("encoders", ())]
    return [guard for guard in found if guard]


def _kept(guard: dict[str, Any], name: str) -> str:
    kept = [str(one) for one in guard["kept"]]
    reached = ", ".join(
        f"{figure} {guard['reached'][figure]:.5g} (without {guard['without'][figure]:.5g})"
        for figure in guard["target"]
    )
    which = f"{', '.join(kept)} unquantized, {guard['slower']:.2f} times the time" if kept else "nothing"
    return f"{name} keeps {which} for precision.target on {guard['texts']} texts: {reached}."


def _positions(timing: Timing) -> float:
    """Token positions of a call, padded ones included; mean over the calls."""
    if timing.padded_tokens_per_call is None:  # of a report that is older than lengths
        return timing.batch_size * timing.seq_len
    return timing.valid_tokens_per_call + timing.padded_tokens_per_call


def _against(reports: list[Report], view: View) -> list[str]:
    """Who the speed-ups are against, and whether that is a stand-in."""
    body = [row for row in rows(reports, view) if row.speedup is not None]
    if not body or len(reports) == 1:
        return []
    if view.baseline is not None and "=" in view.baseline:
        return [f"The speed-up is against {view.baseline} under otherwise the same settings."]
    names = dict.fromkeys(str(row.baseline) for row in body)
    told = f"The speed-up is against {' or '.join(names)} under the same settings"
    stands_in = view.baseline is None and any(name != baseline.PLAIN for name in names)
    return [f"{told}, where {baseline.PLAIN} was not measured." if stands_in else f"{told}."]


def _unmeasured(reports: list[Report], view: View) -> list[str]:
    """Which of the asked columns are missing because there is nothing to show in them."""
    body = rows(reports, view)
    empty = [name for name in view.columns if not any(_any(column, body) for column in CHOICE[name])]
    return [f"Not measured of any job, so without a column: {', '.join(empty)}."] if empty else []


def _too_few(named: list[tuple[Report, str]]) -> list[str]:
    """Which figures rest on too few calls for any conclusion, and how to get more."""
    short = [name for report, name in named if report.timing is not None and not floors.enough(report)]
    return [f"{'; '.join(short)}: {floors.TOO_FEW} faster from slower. {floors.remedy()}"] if short else []


def _uncertainty(reports: list[Report]) -> list[str]:
    """How far an accuracy on that few samples can be from the truth: the widest interval of the table."""
    scored = [report.accuracy for report in reports if report.accuracy and report.accuracy.accuracy_interval]
    if not scored:
        return []
    widest = max(a.accuracy_interval.high - a.accuracy_interval.low for a in scored if a.accuracy_interval)
    samples = min(accuracy.samples for accuracy in scored)
    return [
        f"An accuracy on {samples} samples is known to +-{50 * widest:.1f} points (95 %); "
        "agreement compares the same samples with Hugging Face in fp32 and tells smaller differences."
    ]


def _repeats(reports: list[Report]) -> list[str]:
    if not any(report.repeated is not None for report in reports):
        return []
    return [
        "Figures are medians over the repetitions, each a fresh process; spread is the coefficient of "
        "variation of their medians. From six on there is a 95 % interval of p50."
    ]


def _noise(named: list[tuple[Report, str]]) -> list[str]:
    """One sentence on all jobs whose measurement was disturbed; by what, only where it is one job."""
    noisy = [(name, report.timing) for report, name in named if report.timing and report.timing.noisy]
    if len(noisy) == 1:
        name, timing = noisy[0]
        return [f"{name} was disturbed while it was measured: {'; '.join(timing.noisy_because)}."]
    names = ", ".join(dict.fromkeys(name for name, _ in noisy))
    return (
        [f"Disturbed while measured, compare with care (report.md says by what): {names}."] if noisy else []
    )


def markdown(reports: list[Report], view: View = USUAL_VIEW) -> str:
    """The table as Markdown."""
    shown, body = columns(reports, view), rows(reports, view)
    lines = [[column.title for column in shown], ["---"] * len(shown)]
    lines += [[column.text(row) for column in shown] for row in body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _speedup(report: Report, other: Report | None) -> float | None:
    if report.timing is None or other is None or other.timing is None:
        return None
    if not floors.enough(report) or not floors.enough(other):
        return None
    return report.timing.throughput_sps / other.timing.throughput_sps
