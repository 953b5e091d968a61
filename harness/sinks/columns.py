"""The columns of a table of jobs: what a row says under each title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from harness.sinks import axes, load_notes
from harness.values import settings as catalogue
from harness.values.report import NOT_INSTALLED, Report, Server
from harness.values.spec import RunSpec


@dataclass(frozen=True)
class Row:
    """One job. Numbers that were not measured are None. baseline: contender that its speed-up is against."""

    report: Report
    speedup: float | None
    baseline: str | None = None


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


def settings(reports: Sequence[Report]) -> list[Column]:
    """A column for each setting in which the jobs differ, whatever it is, so that no two rows look alike."""
    usual = [column for column in SETTINGS if len(found(column, reports)) > 1]
    specs = [report.spec for report in reports]
    further = [name for name in axes.varied(specs) if not _told(name, [CONTENDER, *usual], reports)]
    return [*usual, *(_axis(name, reports) for name in further)]


def labels(reports: Sequence[Report]) -> list[str]:
    """A name for each job in sentences and charts: its contender, and what tells it apart from the others."""
    names = [report.spec.contender for report in reports]
    if len(set(names)) == len(names):
        return names
    shown = settings(reports)
    rows = [Row(report, None) for report in reports]
    return [
        " ".join([name, *(f"{column.title} {column.text(row)}" for column in shown)])
        for name, row in zip(names, rows, strict=True)
    ]


def further(reports: Sequence[Report]) -> list[str]:
    """What tells each job apart from the others, beside contender, model and shape of a call: `seed 1`."""
    shown = [column for column in settings(reports) if column.title not in ("model", "batch", "seq_len")]
    rows = [Row(report, None) for report in reports]
    return [" ".join(f"{column.title} {column.text(row)}" for column in shown) for row in rows]


def found(column: Column, reports: Sequence[Report]) -> list[float | str]:
    """The different values of a column; a job that failed before it was observed does not count."""
    values = (column.value(Row(report, None)) for report in reports)
    return list(dict.fromkeys(value for value in values if value is not None))


def _axis(name: str, reports: Sequence[Report]) -> Column:
    read = axes.reader(name, [report.spec for report in reports])
    return Column(catalogue.title(name), lambda row: read(row.report.spec))


def _told(name: str, shown: Sequence[Column], reports: Sequence[Report]) -> bool:
    """Whether a column that is there anyway tells the value of a setting, of every job."""
    columns = [column for column in shown if column.title in catalogue.of(name).elsewhere.columns]
    axis = _axis(name, reports)
    rows = [Row(report, None) for report in reports]
    for column in columns:
        pairs = {(column.value(row), axis.text(row)) for row in rows}
        if None not in {value for value, _ in pairs} and len({value for value, _ in pairs}) == len(pairs):
            return True
    return False


def _status(report: Report) -> str | None:
    """None for a finished job."""
    if report.not_installed:
        return NOT_INSTALLED
    return None if report.status == "finished" else report.status


def _latency(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.report.timing.latency_ms.get(name) if row.report.timing else None


def _spread(report: Report) -> float | None:
    return report.repeated.spread if report.repeated is not None else None


def _server(report: Report) -> Server | None:
    return report.timing.server if report.timing is not None else None


def _in_bound(report: Report) -> str | None:
    server = _server(report)
    return None if server is None or server.met is None else ("yes" if server.met else "no")


def _energy(row: Row) -> float | None:
    return row.report.timing.energy.joules_per_sequence if row.report.timing else None


def _quality(name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.report.accuracy, name) if row.report.accuracy else None


def _percent(name: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        fraction = getattr(row.report.accuracy, name) if row.report.accuracy else None
        return None if fraction is None else 100 * fraction

    return value


def _passages_per_s(row: Row) -> float | None:
    retrieval, timing = row.report.retrieval, row.report.timing
    if retrieval is None or timing is None:
        return None
    return retrieval.passages_per_s(timing.throughput_sps, timing.count)


def _retrieved(name: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        share = getattr(row.report.retrieval, name) if row.report.retrieval else None
        return None if share is None else 100 * share

    return value


def _texts(spec: RunSpec) -> str:
    """Where the text comes from: a corpus of the user's own beats the data."""
    corpus = spec.workload.corpus
    return spec.data.name if corpus is None else PurePath(corpus).name


CONTENDER = Column("contender", lambda row: row.report.spec.contender)
SETTINGS = (
    Column("model", lambda row: row.report.spec.model.name),
    Column("batch", lambda row: row.report.spec.batch.size),
    Column("seq_len", lambda row: row.report.spec.batch.seq_len),
    Column("lengths", lambda row: load_notes.lengths(row.report.spec.batch)),
    Column("workload", lambda row: row.report.spec.workload.name),
    Column("load", lambda row: row.report.spec.load.name),
    Column("instances", lambda row: row.report.spec.host.instances),
    Column("data", lambda row: _texts(row.report.spec)),
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
USUAL = {
    setting.elsewhere.columns[0]: setting.default
    for setting in catalogue.SETTINGS
    if setting.elsewhere.unsaid
}
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
    Column("calls", lambda row: row.report.timing.count if row.report.timing else None),
    Column("speed-up", lambda row: row.speedup, "{:.2f}x"),
    Column("accuracy", _percent("accuracy"), "{:.1f} %"),
    Column("F1", _percent("f1"), "{:.1f} %"),
    Column("agreement", _percent("agreement"), "{:.2f} %"),
    Column("top 10", _percent("top10"), "{:.1f} %"),
    Column("passages/s", _passages_per_s, "{:.1f}"),
    Column("overlap 10", _retrieved("overlap10"), "{:.1f} %"),
    Column("recall 10", _retrieved("recall10"), "{:.1f} %"),
)
# What a user can add by table.columns. In 1e6 bytes, seconds, ms and joules.
CHOICE = {
    "calls": tuple(column for column in RESULTS if column.title == "calls"),
    "interval": INTERVAL,
    "p99": (LOADED[1],),
    "memory": (Column("peak MB", lambda row: row.report.memory.peak_mb, "{:.0f}"),),
    "packed": (Column("packed MB", lambda row: row.report.memory.packed_mb, "{:.1f}"),),
    "load": (
        Column("load s", lambda row: row.report.phases.load_s, "{:.2f}"),
        Column("pack s", lambda row: row.report.phases.pack_s, "{:.2f}"),
    ),
    "cold": (Column("cold ms", lambda row: row.report.phases.cold_ms, "{:.1f}"),),
    "energy": (Column("J/seq", _energy, "{:.3g}"),),
    "cosine": (
        Column("cosine min", _quality("cosine_min"), "{:.5f}"),
        Column("cosine mean", _quality("cosine_mean"), "{:.5f}"),
    ),
}
# What a report can say in a table, needed or not.
EVERY_RESULT = tuple(
    dict.fromkeys(
        [
            *RESULTS, *LOADED, *SERVED, *REPEATED, *INTERVAL,
            *(column for columns in CHOICE.values() for column in columns),
            Column("baseline", lambda row: row.baseline),
        ]
    )
)  # fmt: skip
