"""The summary that a user reads: one row for each job, made once for console, Markdown, CSV and chart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness import load_notes
from harness.report import NOT_INSTALLED, Report, Server, Timing

# The contender that speed-ups are against: Hugging Face as it is.
PLAIN = "hf-fp32"


@dataclass(frozen=True)
class Row:
    """One job. Numbers that were not measured are None."""

    report: Report
    speedup: float | None


@dataclass(frozen=True)
class Column:
    """title: with its unit. value: number or text of a row; None is shown as a dash."""

    title: str
    value: Callable[[Row], float | str | None]
    form: str = "{}"

    def text(self, row: Row) -> str:
        """The cell as a person reads it."""
        value = self.value(row)
        return "-" if value is None else self.form.format(value)


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
    """The rows of a sweep, with each job's speed-up: ratio of its throughput to that of its baseline."""
    return [Row(report, _speedup(report, baseline_of(report, reports))) for report in reports]


def columns(reports: list[Report]) -> list[Column]:
    """The columns that these jobs need: a setting that is the same for all of them is left to the title."""
    settings = [column for column in SETTINGS if len(_found(column, reports)) > 1]
    loaded = LOADED if any(report.spec.load.name != "offline" for report in reports) else ()
    served = SERVED if any(report.spec.load.name == "server" for report in reports) else ()
    groups = [report for report in reports if report.repeated is not None]
    repeated = REPEATED if groups else ()
    known = any(report.timing is not None and "ci_low" in report.timing.latency_ms for report in groups)
    interval = INTERVAL if known else ()
    # The further columns of a load need the room of those that would be empty.
    scored = not loaded or any(report.accuracy is not None for report in reports)
    results = [column for column in RESULTS if scored or column.title not in ("accuracy", "F1", "agreement")]
    return [CONTENDER, *settings, *repeated, *served, *results, *loaded, *interval]


def title(reports: list[Report]) -> str:
    """What the jobs have in common, in one line."""
    found = {column.title: _found(column, reports) for column in SETTINGS}
    common = {name: values[0] for name, values in found.items() if len(values) == 1}
    return ", ".join(f"{name} {value}" for name, value in common.items() if value != USUAL.get(name))


def _found(column: Column, reports: list[Report]) -> list[float | str]:
    """The different values of a setting; a job that failed before it was observed does not count."""
    values = (column.value(Row(report, None)) for report in reports)
    return list(dict.fromkeys(value for value in values if value is not None))


def notes(reports: list[Report]) -> list[str]:
    """Sentences without which the numbers could mislead; each once."""
    found = [note for report in reports for note in _notes_of(report)]
    others = [*_stand_ins(reports), *_uncertainty(reports), *_repeats(reports), *_noise(reports)]
    return [*dict.fromkeys(found), *others]


def _notes_of(report: Report) -> list[str]:
    name, timing, found = report.spec.contender, report.timing, []
    if report.failure is not None:
        message = report.failure.message
        found.append(message if report.not_installed else f"{name} failed: {message}")
    if report.identity.weights_source == "random":
        found.append(f"Good for speed, not for accuracy: {report.identity.weights_reason}.")
    if report.accuracy is not None and report.accuracy.absent_because:
        found.append(f"Accuracy was not measured: {report.accuracy.absent_because}.")
    found += load_notes.of(report)
    if timing is not None and timing.skipped_tokens_per_call:
        share = timing.skipped_tokens_per_call / _positions(timing)
        found.append(f"{name} skipped padding: {share:.0%} of the token positions were not computed.")
    return found


def _positions(timing: Timing) -> float:
    """Token positions of a call, padded ones included; mean over the calls."""
    if timing.padded_tokens_per_call is None:  # of a report that is older than lengths
        return timing.batch_size * timing.seq_len
    return timing.valid_tokens_per_call + timing.padded_tokens_per_call


def _stand_ins(reports: list[Report]) -> list[str]:
    """Who the speed-up is against where that is not Hugging Face as it is."""
    timed = [report for report in reports if report.timing is not None]
    found = [baseline_of(report, reports) for report in timed]
    names = dict.fromkeys(one.spec.contender for one in found if one is not None)
    others = [name for name in names if name != PLAIN]
    told = f"Where {PLAIN} was not measured, the speed-up is against {' or '.join(others)}."
    return [told] if others else []


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


def _noise(reports: list[Report]) -> list[str]:
    """One sentence on all jobs whose measurement was disturbed; by what, only where it is one job."""
    noisy = [
        (report.spec.contender, report.timing) for report in reports if report.timing and report.timing.noisy
    ]
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


def _status(report: Report) -> str | None:
    """None for a finished job."""
    if report.not_installed:
        return NOT_INSTALLED
    return None if report.status == "finished" else report.status


def _setting(report: Report) -> tuple[object, ...]:
    spec = report.spec
    data = spec.data.name, spec.data.samples
    return spec.model, spec.batch, spec.load, spec.host, *data, spec.seed, spec.repetition


def _speedup(report: Report, baseline: Report | None) -> float | None:
    if report.timing is None or baseline is None or baseline.timing is None:
        return None
    return report.timing.throughput_sps / baseline.timing.throughput_sps


def _latency(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.report.timing.latency_ms.get(name) if row.report.timing else None


def _spread(report: Report) -> float | None:
    return report.repeated.spread if report.repeated is not None else None


def _server(report: Report) -> Server | None:
    return report.timing.server if report.timing is not None else None


def _in_bound(report: Report) -> str | None:
    server = _server(report)
    return None if server is None or server.met is None else ("yes" if server.met else "no")


def _percent(name: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        fraction = getattr(row.report.accuracy, name) if row.report.accuracy else None
        return None if fraction is None else 100 * fraction

    return value


CONTENDER = Column("contender", lambda row: row.report.spec.contender)
SETTINGS = (
    Column("model", lambda row: row.report.spec.model.name),
    Column("batch", lambda row: row.report.spec.batch.size),
    Column("seq_len", lambda row: row.report.spec.batch.seq_len),
    Column("lengths", lambda row: load_notes.lengths(row.report.spec.batch)),
    Column("load", lambda row: row.report.spec.load.name),
    Column("instances", lambda row: row.report.spec.host.instances),
    Column("data", lambda row: row.report.spec.data.name),
    Column("threads", lambda row: row.report.identity.threads),
    Column("weights", lambda row: row.report.identity.weights_source),
)
# Of variants that were repeated: how often, and how much their processes differed.
REPEATED = (
    Column("runs", lambda row: len(row.report.repeated.measured) if row.report.repeated else None),
    Column(
        "spread",
        lambda row: None if (s := _spread(row.report)) is None else 100 * s,
        "{:.1f} %",
    ),
)
INTERVAL = (
    Column("p50 from", _latency("ci_low"), "{:.2f}"),
    Column("to ms", _latency("ci_high"), "{:.2f}"),
)
# What goes without saying in a title.
USUAL = {"lengths": "fixed", "load": "offline", "instances": 1}
# load=single_stream and load=server are about latency, load=server about the rate too.
LOADED = (Column("p90 ms", _latency("p90"), "{:.2f}"), Column("p99 ms", _latency("p99"), "{:.2f}"))
SERVED = (
    Column("queries/s", lambda row: s.rate if (s := _server(row.report)) else None, "{:.2f}"),
    Column("in bound", lambda row: _in_bound(row.report)),
)
RESULTS = (
    Column("status", lambda row: _status(row.report)),
    Column("seq/s", lambda row: row.report.timing.throughput_sps if row.report.timing else None, "{:.1f}"),
    Column("p50 ms", _latency("p50"), "{:.2f}"),
    Column("speed-up", lambda row: row.speedup, "{:.2f}x"),
    Column("accuracy", _percent("accuracy"), "{:.1f} %"),
    Column("F1", _percent("f1"), "{:.1f} %"),
    Column("agreement", _percent("agreement"), "{:.2f} %"),
)
