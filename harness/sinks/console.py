"""What a person sees: the table, what to know about it, and where to look next."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import table
from harness.report import Report
from harness.secrets import redact

WIDE = 100  # columns; a narrower console leaves the interval of repetitions to the files


def announce(console: Console, folder: Path, what: str) -> None:
    """Says what is being measured, before the worker's progress bars."""
    text = Text.assemble((what, "bold"), "  ", (f"-> {nearby(folder)}", "dim"))
    console.print(text, highlight=False, soft_wrap=True)


def nearby(path: Path) -> Path:
    """The path as seen from the current directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def summary(console: Console, reports: list[Report]) -> None:
    """Prints the table of one or more jobs and the notes that belong to it."""
    shown = table.columns(reports)
    if all(report.status == "finished" for report in reports):
        shown = [column for column in shown if column.title != "status"]
    if console.width < WIDE:
        shown = [column for column in shown if column not in table.INTERVAL]
    # No vertical lines and little padding: the table fits into 80 columns, which is what a pipe has.
    console.print(table.title(reports), style="bold", highlight=False, markup=False, soft_wrap=True)
    drawn = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False,
    )  # fmt: skip
    for column in shown:
        drawn.add_column(column.title, justify="left" if column is table.CONTENDER else "right", no_wrap=True)
    for row in table.rows(reports):
        # As Text: a name like best[1] is no markup.
        drawn.add_row(*(Text(column.text(row)) for column in shown))
    console.print(drawn)
    for note in table.notes(reports):
        console.print(redact(note), highlight=False, markup=False, soft_wrap=True)


def error(console: Console, message: str) -> None:
    """One paragraph about what went wrong."""
    console.print(f"error: {redact(message)}", highlight=False, markup=False, soft_wrap=True, style="red")


def next_steps(console: Console, folder: Path, store: str | None) -> None:
    """Where the results are. store: address for `mlflow ui`, or None when nothing was logged."""
    console.print(f"report: {nearby(folder)}", highlight=False, markup=False, soft_wrap=True)
    if store is not None:
        hint = f"mlflow ui --backend-store-uri {store}" if store.startswith("sqlite") else store
        console.print(f"MLflow: {redact(hint)}", highlight=False, markup=False, soft_wrap=True)


def nothing_measured(console: Console, jobs: int) -> None:
    """Ends a sweep of which no job could begin; why has been shown."""
    which = "its only job was" if jobs == 1 else f"all {jobs} jobs were"
    console.print(f"Nothing was measured: {which} refused.", highlight=False, markup=False, soft_wrap=True)


def moved(console: Console, folder: Path, aside: Path) -> None:
    """Says where the sweep that was in `folder` is now."""
    console.print(
        f"{nearby(folder)} held an earlier sweep, which is now {nearby(aside)}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
