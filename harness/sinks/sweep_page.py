"""sweep.html: a sweep as one file that needs no other, with table, notes, charts and environment."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from harness.values.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:1em auto;padding:0 1em}"
    "td,th{padding:.2em .8em;text-align:left}"
    "table.results td:nth-child(n+2),table.results th:nth-child(n+2){text-align:right}"
    "svg{max-width:100%;height:auto}"
)
ENVIRONMENT = ("cpu", "isa", "threads", "torch", "transformers", "python", "git_commit", "fingerprint")


def html(
    heading: str,
    cells: Sequence[Sequence[str]],
    notes: Sequence[str],
    figures: Sequence[tuple[str, Figure]],
    reports: Sequence[Report],
) -> str:
    """The page. cells: rows of the table, titles first. figures: each with its caption."""
    head, *body = cells
    rows = "".join(f"<tr>{_cells('td', line)}</tr>\n" for line in body)
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(heading)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(heading)}</h1>",
        f"<table class='results'><thead><tr>{_cells('th', head)}</tr></thead><tbody>\n{rows}</tbody></table>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(
            f"<h2>{escape(caption)}</h2>\n{svg(figure, f'f{number}-')}"
            for number, (caption, figure) in enumerate(figures)
        ),
        _environment(reports),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an element of a page; its letters are outlines, so no font is needed.

    prefix: of its ids, which have to be unique in the page.
    """
    from matplotlib import rc_context

    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "path"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    # Comments hold what the outlines say, which needs no second place; metadata names pages elsewhere.
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", text).strip()


def _environment(reports: Sequence[Report]) -> str:
    """What the jobs ran on: each value that was observed, several where the jobs differ."""
    rows = []
    for name in ENVIRONMENT:
        found = dict.fromkeys(getattr(report.identity, name) for report in reports)
        told = ", ".join(str(value) for value in found if value is not None)
        if told:
            rows.append(f"<tr>{_cells('td', [name.replace('_', ' '), told])}</tr>")
    return f"<h2>Environment</h2>\n<table>{''.join(rows)}</table>" if rows else ""


def _cells(tag: str, line: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)
