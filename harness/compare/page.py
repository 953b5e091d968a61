"""A comparison for people: on the console, as Markdown, as HTML, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from harness.judge import floors
from harness.judge.floors import TOO_FEW
from harness.judge.pairs import Pair
from harness.judge.processes import CONFIDENCE, Process
from harness.values.errors import UserError
from harness.values.plain import read_json, write_json, write_text
from harness.values.redact import redact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = ("candidate", "ms", "calls", "baseline", "ms", "calls", "ratio", "interval", "p", "verdict")
NAME = "compare"
EXPLAINED = (
    "ratio: the baseline's median latency / the candidate's, above 1 where the candidate is faster; its "
    f"interval holds the true one with {100 * CONFIDENCE:g} % confidence unless another was asked for."
)
COLORS = {"faster": "tab:green", "slower": "tab:red", "no difference detected": "tab:gray"}


def cells(pair: Pair) -> tuple[str, ...]:
    """The row of a pair, one text for each of HEAD."""
    speed = pair.speed
    return (
        pair.candidate,
        _ms(pair.candidate_ms),
        _count(pair.candidate_calls),
        pair.baseline,
        _ms(pair.baseline_ms),
        _count(pair.baseline_calls),
        f"{speed.ratio:.3f}" if speed else "-",
        f"{speed.interval.low:.3f} .. {speed.interval.high:.3f}" if speed and speed.interval else "-",
        f"{speed.p_value:.2g}" if speed and speed.p_value is not None else "-",
        pair.verdict,
    )


def sentences(pair: Pair) -> list[str]:
    """What is to be known about the row: why not comparable, how it was decided, cautions, accuracy."""
    found = [f"Not comparable: {reason.rstrip('.')}." for reason in pair.because]
    if pair.speed is not None and pair.speed.verdict == TOO_FEW:
        found.append(f"{TOO_FEW.capitalize()}: {pair.speed.method}. {floors.remedy()}")
    elif pair.speed is not None:
        found.append(f"Decided by {pair.speed.method}.")
    found += pair.cautions
    quality = pair.answers
    if quality is not None:
        found.append(
            f"Accuracy on the same {quality.samples} pairs: {quality.candidate_accuracy:.1%} against "
            f"{quality.baseline_accuracy:.1%}; {quality.agreement:.2%} of the decisions are equal, "
            f"{quality.only_candidate} pairs are right only here and {quality.only_baseline} only there "
            f"(McNemar's exact p = {quality.p_value:.2g})."
        )
    return found


def show(console: Console, pairs: Sequence[Pair], alone: Sequence[str]) -> None:
    """Prints a block for each pair: figures, verdict, differing settings, and what is to be known."""
    for pair in pairs:
        _print(console, f"{pair.candidate}\n  against {pair.baseline}", bold=True)
        ratio, interval, p_value, _ = cells(pair)[-4:]
        sides = ((pair.candidate_ms, pair.candidate_calls), (pair.baseline_ms, pair.baseline_calls))
        figures = " against ".join(f"{_ms(p50)} ms ({_calls(calls)})" for p50, calls in sides)
        _print(console, f"{figures}: ratio {ratio} ({interval}), p {p_value}")
        style = COLORS.get(pair.verdict, "tab:orange").removeprefix("tab:")
        console.print(pair.verdict, style="yellow" if style in ("orange", "gray") else style, highlight=False)
        if pair.differences:
            drawn = Table(
                "setting", "baseline", "candidate", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
            )
            for one in pair.differences:
                drawn.add_row(one.setting, redact(one.baseline), redact(one.candidate))
            console.print(drawn, markup=False)
        for sentence in sentences(pair):
            _print(console, sentence)
        console.print()
    for sentence in alone:
        _print(console, sentence)
    _print(console, EXPLAINED)


def write(
    folder: Path,
    pairs: Sequence[Pair],
    alone: Sequence[str],
    medians: Sequence[tuple[Sequence[Process], Sequence[Process]]],
) -> list[Path]:
    """Writes compare.md, compare.html, compare.json and, where there are latencies, compare.png; the files.

    medians: the processes behind each pair, baseline first. UserError where there are files of these names
    that no comparison has written.
    """
    _refuse_foreign(folder)
    write_text(folder / f"{NAME}.md", redact(markdown(pairs, alone)))
    write_text(folder / f"{NAME}.html", redact(html(pairs, alone)))
    write_json(folder / f"{NAME}.json", {"pairs": pairs, "alone": alone})
    names = ["md", "html", "json"]
    if any(pair.speed is not None for pair in pairs):
        figure(pairs, medians).savefig(folder / f"{NAME}.png", dpi=120)
        names.append("png")
    return [folder / f"{NAME}.{name}" for name in names]


def _refuse_foreign(folder: Path) -> None:
    there = [
        f"{NAME}.{ending}"
        for ending in ("md", "html", "json", "png")
        if (folder / f"{NAME}.{ending}").exists()
    ]
    try:
        ours = not there or "pairs" in read_json(folder / f"{NAME}.json")
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise UserError(
            "--output", str(folder), f"holds {', '.join(there)}, which no comparison has written",
            "Choose another folder, or move it away",
        )  # fmt: skip


def markdown(pairs: Sequence[Pair], alone: Sequence[str]) -> str:
    """The whole comparison as a Markdown page."""
    lines = ["# Comparison\n", _table(HEAD, [cells(pair) for pair in pairs])]
    for pair in pairs:
        lines.append(f"## {pair.candidate} against {pair.baseline}: {pair.verdict}\n")
        lines += [f"{sentence}\n" for sentence in sentences(pair)]
        if pair.differences:
            rows = [(one.setting, one.baseline, one.candidate) for one in pair.differences]
            lines.append(_table(("setting", "baseline", "candidate"), rows))
    return "\n".join([*lines, *(f"{sentence}\n" for sentence in alone), EXPLAINED, ""])


def html(pairs: Sequence[Pair], alone: Sequence[str]) -> str:
    """The same as one HTML file that needs nothing else; the picture lies beside it."""
    body = ["<h1>Comparison</h1>", _html_table(HEAD, [cells(pair) for pair in pairs])]
    if any(pair.speed is not None for pair in pairs):
        body.append(
            f"<p><img src='{NAME}.png' alt='medians of the processes, and ratios' style='max-width:100%'></p>"
        )
    for pair in pairs:
        body.append(
            f"<h2>{escape(pair.candidate)} against {escape(pair.baseline)}: {escape(pair.verdict)}</h2>"
        )
        body += [f"<p>{escape(sentence)}</p>" for sentence in sentences(pair)]
        if pair.differences:
            rows = [(one.setting, one.baseline, one.candidate) for one in pair.differences]
            body.append(_html_table(("setting", "baseline", "candidate"), rows))
    body += [f"<p>{escape(sentence)}</p>" for sentence in (*alone, EXPLAINED)]
    style = "body{font-family:sans-serif}td,th{padding:.2em .8em;text-align:left}th{border-bottom:1px solid}"
    meta = "<!doctype html><html lang='en'><meta charset='utf-8'><title>Comparison</title>"
    head = f"{meta}<style>{style}</style>"
    return "\n".join([head, *body, "</html>", ""])


def figure(pairs: Sequence[Pair], medians: Sequence[tuple[Sequence[Process], Sequence[Process]]]) -> Figure:
    """Left the median of every process, right each ratio with its interval."""
    timed = [(pair, both) for pair, both in zip(pairs, medians, strict=True) if pair.speed is not None]
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 1.6 + 0.9 * len(timed)), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for place, (pair, (baseline, candidate)) in enumerate(timed):
        speed = pair.speed
        assert speed is not None
        color = COLORS.get(pair.verdict, "tab:orange")
        shown = (baseline, "tab:gray", -0.12), (candidate, "tab:blue", 0.12)
        for side, paint, offset in shown:
            left.plot([p.p50_ms for p in side], [place + offset] * len(side), "o", color=paint, alpha=0.6)
        if speed.interval is not None:
            ends = [speed.interval.low, speed.interval.high]
            right.plot(ends, [place, place], color=color, linewidth=3)
        right.plot([speed.ratio], [place], "o", color=color)
        right.annotate(
            pair.verdict, (speed.ratio, place), (0, 9), textcoords="offset points", ha="center", fontsize=8
        )
    left.set_yticks(
        range(len(timed)), [f"{pair.candidate}\nagainst {pair.baseline}" for pair, _ in timed], fontsize=7
    )
    left.set_ylim(len(timed) - 0.5, -0.5)
    left.set_xlabel("median latency of a process in ms (gray: baseline, blue: candidate)", fontsize=8)
    right.axvline(1.0, color="black", linewidth=1)
    right.set_xlabel("ratio with its interval; right of 1: the candidate is faster", fontsize=8)
    return drawn


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(calls: int | None) -> str:
    return "-" if calls is None else str(calls)


def _calls(calls: int | None) -> str:
    return f"{_count(calls)} call{'s' if calls != 1 else ''}"


def _print(console: Console, text: str, bold: bool = False) -> None:
    console.print(redact(text), style="bold" if bold else None, highlight=False, markup=False, soft_wrap=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
