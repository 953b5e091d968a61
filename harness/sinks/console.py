"""What a person sees: the table, what to know about it, and where to look next."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.sinks import table
from harness.sinks.columns import CONTENDER, Column, Row
from harness.values.redact import redact
from harness.values.report import Report
from harness.values.view import View

# What a terminal that is too narrow for the table leaves to the files, one after the other.
DISPENSABLE = (
    "p50 from",
    "to ms",
    "F1",
    "calls",
    "p90 ms",
    "spread",
    "runs",
    "top 10",
    "agreement",
    "speed-up",
)


def announce(console: Console, folder: Path, what: str) -> None:
    """Says what is being measured, before the worker's progress bars."""
    text = Text.assemble((what, "bold"), "  ", (f"-> {nearby(folder)}", "dim"))
    console.print(text, highlight=False, soft_wrap=True)


def came_of(console: Console, place: str, result: str, left: str | None) -> None:
    """One line when a job of a sweep is over. left: how long the others will take."""
    text = f"{place} {result}" + (f"  ({left} left)" if left is not None else "")
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def nearby(path: Path) -> Path:
    """The path as seen from the current directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def summary(console: Console, reports: list[Report], view: View = table.USUAL_VIEW) -> None:
    """Prints the table of one or more jobs and the notes that belong to it."""
    shown, body = table.columns(reports, view), table.rows(reports, view)
    drawn, left_out = _drawn(shown, body), []
    # A pipe has no width: whoever reads it can scroll or cut.
    for title in DISPENSABLE if console.is_terminal else ():
        if _width(console, drawn) <= console.width:
            break
        if any(column.title == title for column in shown):
            left_out.append(title)
            shown = [column for column in shown if column.title != title]
            drawn = _drawn(shown, body)
    console.print(table.title(reports), style="bold", highlight=False, markup=False, soft_wrap=True)
    # Rather lines that are too long than numbers that are cut.
    width, console.width = console.width, max(console.width, _width(console, drawn))
    console.print(drawn)
    console.width = width
    if left_out:
        said = f"Left out, for want of room: {', '.join(left_out)}; the report has them."
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    for note in table.notes(reports, view):
        console.print(redact(note), highlight=False, markup=False, soft_wrap=True)


def listing(console: Console, title: str, head: list[str], body: list[list[str]]) -> None:
    """Prints rows of text below their titles; lines are never cut, whatever the width."""
    drawn = _empty()
    for name in head:
        drawn.add_column(name, no_wrap=True)
    for row in body:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
    width, console.width = console.width, max(console.width, _width(console, drawn))
    console.print(drawn)
    console.width = width


def _empty() -> Table:
    # No vertical lines and little padding: the table fits into 80 columns, which is what a pipe has.
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _drawn(shown: list[Column], body: list[Row]) -> Table:
    drawn = _empty()
    for column in shown:
        drawn.add_column(column.title, justify="left" if column is CONTENDER else "right", no_wrap=True)
    for row in body:
        # As Text: a name like best[1] is no markup.
        drawn.add_row(*(Text(column.text(row)) for column in shown))
    return drawn


def _width(console: Console, drawn: Table) -> int:
    """Of the whole table, in columns of the console."""
    return console.measure(drawn, options=console.options.update(max_width=10_000)).maximum


def error(message: str) -> None:
    """One paragraph about what went wrong, on stderr: stdout has results only."""
    told = f"error: {redact(message)}"
    Console(stderr=True).print(told, highlight=False, markup=False, soft_wrap=True, style="red")


def next_steps(console: Console, folder: Path, store: str | None) -> None:
    """Where the results are. store: address for `mlflow ui`, or None when nothing was logged."""
    console.print(f"report: {nearby(folder)}", highlight=False, markup=False, soft_wrap=True)
    if store is not None:
        shown = redact(store)
        hint = f"mlflow ui --backend-store-uri {quote(shown)}" if shown.startswith("sqlite") else shown
        console.print(f"MLflow: {hint}", highlight=False, markup=False, soft_wrap=True)


def nothing_measured(console: Console, jobs: int) -> None:
    """Ends a sweep of which no job could begin; why has been shown."""
    which = "its only job was" if jobs == 1 else f"all {jobs} jobs were"
    console.print(f"Nothing was measured: {which} refused.", highlight=False, markup=False, soft_wrap=True)


def no_jobs(empty: list[str]) -> None:
    """Ends a sweep that has no job. empty: those of its overrides that name no value, as far as is known."""
    why = f": {', '.join(empty)} {'matches' if len(empty) == 1 else 'match'} nothing" if empty else ""
    error(f"Nothing was measured, because the sweep has no job{why}. --help lists groups and options.")


def goes_on(console: Console, folder: Path, kept: int, total: int | None) -> None:
    """Says what resume=true has found. total: jobs of the sweep that goes on; None where a new one begins."""
    if total is None:
        text = "There is no unfinished sweep of this command line: a new one begins."
    else:
        text = f"{nearby(folder)} goes on: {kept} of {total} jobs are kept."
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def moved(console: Console, folder: Path, aside: Path) -> None:
    """Says where the sweep that was in `folder` is now."""
    console.print(
        f"{nearby(folder)} held an earlier sweep, which is now {nearby(aside)}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
