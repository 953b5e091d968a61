"""A comparison as a person reads it: the row of a pair, and the sentences below it."""

from __future__ import annotations

import dataclasses

from compare_reports import a_report

from harness.compare import page
from harness.judge import pairs
from harness.judge.variants import Subject


def a_pair(p50: float = 5.0, calls: int = 99) -> pairs.Pair:
    """The op at `p50` ms against Hugging Face at 10 ms; the candidate made so many calls."""
    candidate = a_report(p50, "op")
    assert candidate.timing is not None
    timing = dataclasses.replace(candidate.timing, count=calls)
    return pairs.compare(
        Subject("one", a_report(10.0, "hf")), Subject("other", dataclasses.replace(candidate, timing=timing))
    )


def test_a_row_has_a_cell_for_each_title_and_the_verdict_last() -> None:
    row = page.cells(a_pair())
    assert len(row) == len(page.HEAD)
    told = dict(zip(page.HEAD, row, strict=True))
    assert told["ratio"] == "2.000" and told["verdict"] == a_pair().verdict == "faster"


def test_what_was_not_found_out_is_a_dash_and_why_is_said() -> None:
    few = a_pair(calls=3)
    assert page.cells(few)[-3:-1] == ("-", "-")
    assert "a process made only 3 calls" in page.sentences(few)[0]
    assert "Decided by" in page.sentences(a_pair())[0]


def test_markup_in_names_stays_text() -> None:
    named = dataclasses.replace(a_pair(), candidate="<b>a|b</b>")
    assert "<b>" not in page.html([named], ["<i>alone</i>"]) and "<i>" not in page.html([named], ["<i>"])
    assert "is alone" in page.markdown([named], ["x is alone."])
