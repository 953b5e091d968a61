"""report.md and the pictures beside report.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.judge import floors
from harness.sinks import shootout, sweep_page, table
from harness.sinks.columns import EVERY_RESULT, Row, labels
from harness.values import settings as catalogue
from harness.values.plain import write_text
from harness.values.quality import WorstText
from harness.values.redact import redact
from harness.values.report import SAMPLES_FILE, Interval, Probe, Report
from harness.values.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKDOWN_FILE = "report.md"
LATENCY_FILE = "latency.png"
SWEEP_TABLE = "sweep"
SWEEP_CHART = "sweep.png"
TRADEOFF_CHART = "shootout.png"
SHOWN_OF_A_TEXT = 160


def write_run(report: Report, folder: Path) -> None:
    """Writes report.md, and latency.png when latencies were measured, into the folder of report.json."""
    write_text(folder / MARKDOWN_FILE, redact(run_markdown(report)))
    if report.timing is not None and (folder / SAMPLES_FILE).is_file():
        samples = np.load(folder / SAMPLES_FILE)["latency_ms"]
        _save(latency_figure(report, samples), folder / LATENCY_FILE)


def write_sweep(reports: list[Report], folder: Path, view: View = table.USUAL_VIEW) -> list[Path]:
    """Writes the table of a sweep as Markdown, CSV and HTML, and its charts; returns the files."""
    shown, body = table.columns(reports, view), table.rows(reports, view)
    cells = [[column.title for column in shown], *([column.text(row) for column in shown] for row in body)]
    notes = "".join(f"\n{note}\n" for note in table.notes(reports, view))
    heading = table.title(reports)
    figures = []
    if any(row.report.timing for row in body):
        figures.append((SWEEP_CHART, "Throughput", sweep_figure(reports, view)))
        if len({row.report.spec.contender for row in body}) > 1:
            figures.append((TRADEOFF_CHART, "Speed and what it costs", shootout.figure(reports)))
    captioned = [(caption, drawn) for _, caption, drawn in figures]
    page = sweep_page.html(heading, cells, table.notes(reports, view), captioned, reports)
    files = {
        f"{SWEEP_TABLE}.md": f"# {heading}\n\n{table.markdown(reports, view)}{notes}",
        f"{SWEEP_TABLE}.csv": _csv(body),
        f"{SWEEP_TABLE}.html": page,
    }
    for name, text in files.items():
        write_text(folder / name, redact(text))
    for name, _, drawn in figures:
        _save(drawn, folder / name)
    return [folder / name for name in [*files, *(name for name, _, _ in figures)]]


def run_markdown(report: Report) -> str:
    """One job as a page: verdict first, then every number that was measured."""
    parts = [f"# {report.spec.contender}, {table.title([report])}\n", table.markdown([report])]
    parts += [f"{note}\n" for note in table.notes([report])]
    if report.timing is not None:
        parts.append("## Throughput\n\n" + _listing(_timing_lines(report)))
    if report.accuracy is not None:
        parts.append("## Accuracy\n\n" + _listing(_accuracy_lines(report)))
        if report.accuracy.worst:
            parts.append("## Largest errors\n\n" + _worst_texts(report.accuracy.worst))
    if report.retrieval is not None:
        parts.append("## Retrieval\n\n" + _listing(_known(vars(report.retrieval))))
    parts.append(
        "## Phases and memory\n\n" + _listing(_known({**vars(report.phases), **vars(report.memory)}))
    )
    identity = {name: value for name, value in vars(report.identity).items() if value not in ({}, ())}
    parts.append("## What ran\n\n" + _listing(_known(identity)))
    return "\n".join(parts)


def latency_figure(report: Report, samples: np.ndarray) -> Figure:
    """Latency of every call in order, and its distribution. samples: ms."""
    figure = _figure(9, 3.2)
    series, histogram = figure.subplots(1, 2, width_ratios=[2, 1], sharey=True)
    series.plot(samples, ".", markersize=3, color="tab:blue")
    series.set_xlabel("call")
    series.set_ylabel("latency in ms")
    histogram.hist(samples, bins=min(60, max(5, len(samples) // 5)), orientation="horizontal")
    histogram.set_xlabel("calls")
    for axis in (series.xaxis, histogram.xaxis):
        axis.get_major_locator().set_params(integer=True)
    for axes in (series, histogram):
        axes.axhline(float(np.median(samples)), color="tab:red", linewidth=1)
    size = report.spec.batch
    figure.suptitle(f"{report.spec.contender}, {report.spec.model.name}, batch {size.size} x {size.seq_len}")
    return figure


def sweep_figure(reports: list[Report], view: View = table.USUAL_VIEW) -> Figure:
    """Throughput of each job as a bar, with its speed-up and its accuracy written on it."""
    body = [row for row in table.rows(reports, view) if row.report.timing is not None]
    figure = _figure(9, 1.2 + 0.45 * len(body))
    axes: Axes = figure.subplots()
    names = [name for name, report in zip(labels(reports), reports, strict=True) if report.timing is not None]
    values = [row.report.timing.throughput_sps for row in body if row.report.timing]
    colors = ["tab:gray" if row.report.spec.backend.name == "hf" else "tab:blue" for row in body]
    bars = axes.barh(range(len(body)), values, color=colors)
    axes.set_yticks(range(len(body)), names)
    axes.bar_label(bars, [_bar_text(row) for row in body], padding=4, fontsize=8)
    axes.set_xlim(0, 1.4 * max(values))
    axes.invert_yaxis()
    axes.set_xlabel("sequences per second")
    axes.set_title(table.title(reports), fontsize=9)
    return figure


def _bar_text(row: Row) -> str:
    parts = [] if row.speedup is None else [f"{row.speedup:.2f}x"]
    if row.report.accuracy is not None and row.report.accuracy.accuracy is not None:
        parts.append(f"accuracy {100 * row.report.accuracy.accuracy:.1f} %")
    if row.report.timing is not None and row.report.timing.noisy:
        parts.append("disturbed")  # a picture travels without the warning below the table
    if not floors.enough(row.report):
        parts.append("too few calls")
    return ", ".join(parts)


def _figure(width: float, height: float) -> Figure:
    # Figure itself, not pyplot: no global state, no display, and Agg is what savefig takes for png.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)


def _timing_lines(report: Report) -> dict[str, Any]:
    timing = report.timing
    assert timing is not None
    lines: dict[str, Any] = {
        "calls": f"{timing.count} of ({timing.batch_size}, {timing.seq_len}) in {timing.elapsed_s:.1f} s",
        "sequences/s": timing.throughput_sps,
        "tokens/s": timing.tokens_per_s,
        "valid tokens per call": timing.valid_tokens_per_call,
        "padding tokens per call": timing.padded_tokens_per_call,
        "skipped padding tokens per call": timing.skipped_tokens_per_call,
        "TFLOP/s": timing.tflops,
        "fraction of peak": timing.peak_fraction,
        "outliers": timing.outliers,
        "energy": (
            f"{timing.energy.joules:.1f} J, {timing.energy.joules_per_sequence:.4g} J per sequence"
            if timing.energy.joules is not None
            else f"unavailable ({timing.energy.absent_because})"
        ),
    }
    if timing.server is not None:
        lines |= _known({n: v for n, v in vars(timing.server).items() if n != "probes"})
        for number, probe in enumerate(timing.server.probes):
            lines[f"probe {number}"] = _shown_probe(probe)
    if timing.observed is not None:
        lines |= {f"observed {n}": v for n, v in vars(timing.observed).items() if v not in (None, (), {})}
    if report.instances:
        lines["each instance"] = ", ".join(f"{value:.1f}" for value in report.instances)
    lines |= {f"latency {name} in ms": value for name, value in timing.latency_ms.items()}
    lines |= timing.interference
    return _known(lines)


def _shown_probe(probe: Probe) -> str:
    p99 = (
        f"p99 {probe.p99_ms:.1f} ms"
        if probe.p99_ms is not None
        else "stopped early"
        if probe.stopped
        else "-"
    )
    met = {True: "met", False: "not met", None: "too few queries"}[probe.met]
    return (
        f"{probe.rate:.2f} queries/s: {met}, {p99}, {probe.count} queries, {probe.achieved_rate:.2f}/s done"
    )


def _accuracy_lines(report: Report) -> dict[str, Any]:
    left_out = {"worst"} if report.accuracy and report.accuracy.samples else {"worst", "samples"}
    return _known({name: value for name, value in vars(report.accuracy).items() if name not in left_out})


def _worst_texts(worst: tuple[WorstText, ...]) -> str:
    """The texts with the largest errors as a table. Long ones are shortened: report.json has them whole."""
    rows = []
    for one in worst:
        text = " / ".join(" ".join(text.split()) for text in one.texts).replace("|", "\\|")
        shown = text if len(text) <= SHOWN_OF_A_TEXT else f"{text[: SHOWN_OF_A_TEXT - 4]} ..."
        rows.append(f"| {one.error:.4g} | {shown} |\n")
    return "| error | text |\n|---|---|\n" + "".join(rows)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _listing(values: dict[str, Any]) -> str:
    return "".join(f"- {name}: {_shown(value)}\n" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.low:.4g} .. {value.high:.4g}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(body: list[Row]) -> str:
    """Every setting and every result, the same columns in the same order whatever the sweep: so the files of
    several sweeps can be put below each other. What was not measured is empty."""
    import csv
    import io
    import json

    names = [setting.name for setting in catalogue.SETTINGS if setting.elsewhere.shown]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["contender", *names, *(column.title for column in EVERY_RESULT)])
    for row in body:
        chosen = [_at(row.report.spec.to_plain(), name) for name in names]
        told = [json.dumps(value) if isinstance(value, bool | dict | list) else value for value in chosen]
        results = [column.value(row) for column in EVERY_RESULT]
        cells = [row.report.spec.contender, *told, *results]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def _at(plain: dict[str, Any], name: str) -> Any:
    value: Any = plain
    for part in name.split("."):
        value = value[part]
    return value
