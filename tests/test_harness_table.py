import csv
import dataclasses
import io

import pytest
from harness_fixtures import a_spec

from harness.sinks import files, sweep_page, table
from harness.values.errors import UserError
from harness.values.report import Accuracy, Failure, Identity, Phases, Report, Timing
from harness.values.spec import BackendSpec, BatchSpec, WorkloadSpec
from harness.values.view import View


def a_report(backend: str, precision: str, sps: float, size: int = 2) -> Report:
    graph = "eager" if backend == "hf" else "jit"
    spec = a_spec(backend=BackendSpec(backend, graph), precision=precision, batch=BatchSpec(size, 8))
    return Report(spec, "finished", timing=Timing(9, 1.0, size, 8, {"p50": 1000 * size / sps}, sps, 16.0))


def test_speedup_is_against_hugging_face_fp32_of_the_same_setting() -> None:
    reports = [
        a_report("hf", "bf16", 50), a_report("hf", "fp32", 100), a_report("op", "bf16", 300),
        a_report("hf", "fp32", 10, size=1), a_report("op", "bf16", 40, size=1),
    ]  # fmt: skip
    assert [row.speedup for row in table.rows(reports)] == [0.5, 1.0, 3.0, 1.0, 4.0]


def test_without_fp32_the_other_hugging_face_is_the_baseline_and_without_any_there_is_none() -> None:
    both = table.rows([a_report("hf", "bf16", 50), a_report("op", "bf16", 100)])
    assert [row.speedup for row in both] == [1.0, 2.0]
    assert [row.speedup for row in table.rows([a_report("op", "bf16", 100)])] == [None]


def test_it_is_told_when_the_speedup_is_against_another_than_hf_fp32() -> None:
    plain, other = a_report("hf", "fp32", 50), a_report("hf", "bf16", 100)
    failed = dataclasses.replace(plain, timing=None, status="failed", failure=Failure("killed", "It was."))
    op = a_report("op", "bf16", 200)
    told = "The speed-up is against hf-bf16 under the same settings, where hf-fp32 was not measured."
    assert told in table.notes([failed, other, op]) and told in table.notes([other, op])
    assert told not in table.notes([plain, other, op]) and table.notes([op]) == []


@pytest.mark.parametrize(("padded", "share"), [(4.0, "20%"), (16.0, "12%"), (None, "25%")])
def test_the_share_of_skipped_padding_is_of_the_positions_that_there_were(
    padded: float | None, share: str
) -> None:
    report = a_report("op", "fp32", 10)
    assert report.timing is not None  # 2 rows of 8 at most, 16 valid tokens a call
    timing = dataclasses.replace(report.timing, padded_tokens_per_call=padded, skipped_tokens_per_call=4.0)
    (note,) = table.notes([dataclasses.replace(report, timing=timing)])
    assert f"skipped padding: {share}" in note


def test_a_setting_is_a_column_only_where_it_differs() -> None:
    reports = [a_report("op", "fp32", 10), a_report("op", "fp32", 10, size=4)]
    assert "batch" in [column.title for column in table.columns(reports)]
    assert "model tiny" in table.title(reports) and "batch" not in table.title(reports)


def test_what_was_not_measured_has_no_column_or_a_dash_and_what_misleads_is_told() -> None:
    report = dataclasses.replace(
        a_report("op", "fp32", 10),
        timing=None,
        status="failed",
        failure=Failure("killed", "The worker was killed."),
        identity=Identity(weights_source="random", weights_reason="no hub"),
        accuracy=Accuracy(absent_because="the weights are random"),
    )
    assert table.markdown([report]).splitlines()[-1] == "| op-fp32 | failed |"
    other = a_report("hf", "fp32", 100)
    assert table.markdown([report, other]).splitlines()[2].startswith("| op-fp32 | failed | - |")
    text = " ".join(table.notes([report]))
    assert "The worker was killed." in text and "no hub" in text and "the weights are random" in text


def test_columns_of_choice_are_added_once_and_what_none_measured_is_told() -> None:
    reports = [a_report("hf", "fp32", 100), a_report("op", "bf16", 300)]
    reports[0] = dataclasses.replace(reports[0], phases=Phases(cold_ms=3.0))
    view = View(columns=("cold", "calls", "energy"))
    titles = [column.title for column in table.columns(reports, view)]
    assert titles.count("calls") == titles.count("cold ms") == 1 and "J/seq" not in titles
    assert "Not measured of any job, so without a column: energy." in table.notes(reports, view)
    assert "cold ms" in table.markdown(reports, view) and "cold ms" not in table.markdown(reports)


def test_an_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"table\.columns='foo'.*calls, interval, p99"):
        table.check(View(columns=("calls", "foo")))


def test_csv_and_html_hold_the_same_table() -> None:
    reports = [a_report("hf", "fp32", 100), a_report("op", "bf16", 300)]
    shown, body = table.columns(reports), table.rows(reports)
    lines = list(csv.DictReader(io.StringIO(files._csv(body))))
    assert [(line["contender"], line["seq/s"], line["speed-up"]) for line in lines] == [
        ("hf-fp32", "100", "1.0"),
        ("op-bf16", "300", "3.0"),
    ]
    assert (lines[1]["precision"], lines[1]["batch.size"], lines[1]["F1"]) == ("bf16", "2", "")
    cells = [[c.title for c in shown], *([c.text(row) for c in shown] for row in body)]
    assert "<td>3.00x</td>" in sweep_page.html("x", cells, [], [], reports)


@pytest.mark.parametrize("status", ["running", "failed"])
def test_an_unfinished_job_says_so(status: str) -> None:
    report = dataclasses.replace(a_report("op", "fp32", 1), status=status)
    assert f"| {status} |" in table.markdown([report])


def test_the_chart_says_which_bars_were_disturbed() -> None:
    quiet, busy = a_report("hf", "fp32", 100), a_report("op", "fp32", 300)
    assert busy.timing is not None
    busy = dataclasses.replace(busy, timing=dataclasses.replace(busy.timing, noisy=True))
    axes = files.sweep_figure([quiet, busy]).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert written == ["1.00x", "3.00x, disturbed"]


def test_the_columns_of_the_csv_are_those_of_any_sweep() -> None:
    one = files._csv(table.rows([a_report("hf", "fp32", 100)]))
    failed = dataclasses.replace(a_report("op", "fp32", 1), timing=None, status="failed")
    other = files._csv(table.rows([failed, a_report("op", "bf16", 3)]))
    assert one.splitlines()[0] == other.splitlines()[0]


def test_a_corpus_of_the_users_own_is_the_data() -> None:
    report = Report(a_spec(workload=WorkloadSpec("retrieval", "/texts/notes.txt")))
    title = table.title([report])
    assert "data notes.txt" in title and "workload retrieval" in title and "synthetic" not in title
    assert "workload" not in table.title([Report(a_spec())]), "pairs go without saying"
