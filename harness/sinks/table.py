"""The summary that a user reads: one row for each job, made once for console, Markdown, CSV and chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.judge import floors
from harness.sinks import load_notes
from harness.sinks.columns import (
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
from harness.values.report import Report, Timing

# The contender that speed-ups are against: Hugging Face as it is.
PLAIN = "hf-fp32"


def baseline_of(report: Report, reports: list[Report]) -> Report | None:
    """The job of a sweep that `report` is compared with: Hugging Face under otherwise the same settings, its
    fp32 where that was measured; None when the sweep has none."""
    alike = [
        other
        for other in reports
        if other.spec.backend.name == "hf"
        and other.timing is not None
        and _setting(other) == _setting(report)
    ]
    return min(alike, key=_distance_from_plain, default=None)


def _distance_from_plain(report: Report) -> tuple[bool, bool]:
    """Smallest for Hugging Face as it is: fp32, not captured as a graph."""
    return report.spec.precision != "fp32", report.spec.backend.graph != "eager"


def rows(reports: list[Report]) -> list[Row]:
    """The rows of a sweep, with each job's speed-up: ratio of its throughput to that of its baseline; None
    where one of the two made too few calls.
    """
    return [Row(report, _speedup(report, baseline_of(report, reports))) for report in reports]


def columns(reports: Sequence[Report]) -> list[Column]:
    """The columns that these jobs need: a setting that is the same for all of them is left to the title, and
    what was measured of none of them has no column."""
    loaded = LOADED if any(report.spec.load.name != "offline" for report in reports) else ()
    served = SERVED if any(report.spec.load.name == "server" for report in reports) else ()
    groups = [report for report in reports if report.repeated is not None]
    repeated = REPEATED if groups else ()
    known = any(report.timing is not None and "ci_low" in report.timing.latency_ms for report in groups)
    interval = INTERVAL if known else ()
    body = rows(list(reports))
    results = [column for column in RESULTS if any(column.value(row) is not None for row in body)]
    return [CONTENDER, *settings(reports), *repeated, *served, *results, *loaded, *interval]


def title(reports: list[Report]) -> str:
    """What the jobs have in common, in one line."""
    values = {column.title: found(column, reports) for column in SETTINGS}
    common = {name: value[0] for name, value in values.items() if len(value) == 1}
    return ", ".join(f"{name} {value}" for name, value in common.items() if value != USUAL.get(name))


def notes(reports: list[Report]) -> list[str]:
    """Sentences without which the numbers could mislead; each once."""
    named = list(zip(reports, labels(reports), strict=True))
    told = [note for report, name in named for note in _notes_of(report, name)]
    others = [*_stand_ins(reports), *_too_few(named), *_uncertainty(reports), *_repeats(reports)]
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
    told += load_notes.of(report, name)
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


def _stand_ins(reports: list[Report]) -> list[str]:
    """Who the speed-up is against where that is not Hugging Face as it is."""
    timed = [report for report in reports if report.timing is not None]
    baselines = [baseline_of(report, reports) for report in timed]
    names = dict.fromkeys(one.spec.contender for one in baselines if one is not None)
    others = [name for name in names if name != PLAIN]
    told = f"Where {PLAIN} was not measured, the speed-up is against {' or '.join(others)}."
    return [told] if others else []


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


def markdown(reports: list[Report]) -> str:
    """The table as Markdown."""
    shown, body = columns(reports), rows(reports)
    lines = [[column.title for column in shown], ["---"] * len(shown)]
    lines += [[column.text(row) for column in shown] for row in body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _setting(report: Report) -> tuple[object, ...]:
    spec = report.spec
    return (
        spec.model, spec.batch, spec.load, spec.host, spec.data, spec.run_time, spec.seed, spec.repetition,
    )  # fmt: skip


def _speedup(report: Report, baseline: Report | None) -> float | None:
    if report.timing is None or baseline is None or baseline.timing is None:
        return None
    if not floors.enough(report) or not floors.enough(baseline):
        return None
    return report.timing.throughput_sps / baseline.timing.throughput_sps
