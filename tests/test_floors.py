"""How much has to be seen before anything is concluded: in compare, gate, table and report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from compare_reports import a_report, save

from harness.compare import subjects
from harness.compare.__main__ import main as compare
from harness.gate import PASSED, WORSE, WRONG_INPUT
from harness.gate import main as gate
from harness.judge import floors, variants
from harness.judge.floors import TOO_FEW, Seen
from harness.judge.repeated import merged as merged_of
from harness.sinks import files, shootout, table
from harness.values.quality import Retrieval
from harness.values.report import Accuracy, Report


def of(report: Report, calls: int, seconds: float = 1.0) -> Report:
    """The report with so many calls in so many seconds; below six there is no interval of their median."""
    assert report.timing is not None
    latency = dict(report.timing.latency_ms)
    if calls < 6:
        del latency["ci_low"], latency["ci_high"]
    timing = dataclasses.replace(report.timing, count=calls, elapsed_s=seconds, latency_ms=latency)
    return dataclasses.replace(report, timing=timing)


@pytest.mark.parametrize(
    ("seen", "missing"),
    [
        ([Seen(8, 0.5)], None),
        ([Seen(7, 9.0)], "only 7 calls, and 8 are needed"),
        ([Seen(99, 1.0), Seen(1, 1.0)], "only 1 call, and 8 are needed"),
        ([Seen(99, 1.0), Seen(500, 0.02)], "only 0.02 s, and 0.5 s are needed"),
        ([], None),
    ],
)
def test_the_process_that_saw_least_decides(seen: list[Seen], missing: str | None) -> None:
    found = floors.shortage(seen)
    assert found is None if missing is None else found is not None and missing in found


def test_more_confidence_needs_more_calls() -> None:
    assert [floors.calls_needed(confidence) for confidence in (0.5, 0.9875, 0.999)] == [8, 8, 11]
    # The slowest and the fastest of n calls hold the median but for 2 / 2^n.
    assert 2 / 2**8 < 1 - 0.9875 < 2 / 2**7


def test_one_call_each_is_no_verdict_however_far_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        str(save(of(a_report(p50), calls), tmp_path / name))
        for name, p50, calls in (("a", 64.0, 1), ("b", 100.0, 1), ("c", 12.0, 2))
    ]
    assert compare([*runs, "--json"]) == 0
    for pair in json.loads(capsys.readouterr().out)["pairs"]:
        assert pair["verdict"] == TOO_FEW and pair["speed"]["interval"] is None
        assert pair["speed"]["p_value"] is None and pair["baseline_calls"] == 1
    assert compare([*runs, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert TOO_FEW in said and "(1 call)" in said and "run_time.iterations" in said
    assert "faster" not in said.replace("the candidate is faster", "") and "slower" not in said
    page = (tmp_path / "out/compare.md").read_text()
    assert "| ms | calls |" in page and "| 2 |" in page


@pytest.mark.parametrize("calls", [1, 7])
def test_not_even_ten_processes_of_few_calls_are_judged(tmp_path: Path, calls: int) -> None:
    sides = []
    for number, p50 in enumerate((10.0, 20.0)):
        runs = [
            of(a_report(p50, at=5.0 * (2 * turn + number), repetitions=10, repetition=turn), calls)
            for turn in range(10)
        ]
        (merged,) = merged_of(runs)
        assert merged.repeated is not None and [one.calls for one in merged.repeated.measured] == [calls] * 10
        sides.append(save(merged, tmp_path / str(number)))
    first = subjects.read(sides[0])[0]
    assert [process.seen for process in variants.processes(first.report)] == [Seen(calls, 1.0)] * 10
    assert compare([str(side) for side in sides]) == 0
    baseline = str(tmp_path / "baseline.json")
    assert gate(["--baseline", baseline, "--write", str(sides[0])]) == PASSED
    assert gate(["--baseline", baseline, str(sides[1])]) == WRONG_INPUT


def test_a_record_that_is_older_than_the_counts_has_what_its_processes_had_on_average() -> None:
    (merged,) = merged_of([a_report(repetitions=4, repetition=number) for number in range(4)])
    assert merged.repeated is not None
    older = [dataclasses.replace(one, calls=None, elapsed_s=None) for one in merged.repeated.measured]
    repeated = dataclasses.replace(merged.repeated, measured=tuple(older))
    assert floors.seen_by(dataclasses.replace(merged, repeated=repeated)) == [Seen(99, 1.0)] * 4


def test_the_gate_ends_with_2_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = str(tmp_path / "baseline.json")
    assert gate(["--baseline", baseline, "--write", str(save(a_report(), tmp_path / "then"))]) == PASSED
    assert TOO_FEW not in capsys.readouterr().out
    for name, report in (("slow", of(a_report(30.0), 1)), ("brief", of(a_report(), 90, 0.1))):
        assert gate(["--baseline", baseline, str(save(report, tmp_path / name))]) == WRONG_INPUT
        said = capsys.readouterr().out
        assert said.startswith(f"{TOO_FEW}: op-fp32") and " needed. Measure at least 8 calls" in said
    worse = dataclasses.replace(of(a_report(), 1), accuracy=Accuracy(20, 0.5, f1=0.5, data_digest="d"))
    assert gate(["--baseline", baseline, str(save(worse, tmp_path / "worse"))]) == WORSE


def test_a_baseline_that_can_judge_no_speed_is_pinned_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = str(tmp_path / "baseline.json")
    run = str(save(of(a_report(), 1), tmp_path / "then"))
    assert gate(["--baseline", baseline, "--write", run]) == PASSED
    assert TOO_FEW in capsys.readouterr().out
    assert gate(["--baseline", baseline, str(save(a_report(), tmp_path / "now"))]) == WRONG_INPUT
    assert "pin it again" in capsys.readouterr().out


def test_a_table_shows_the_calls_and_no_speed_up_of_too_few() -> None:
    enough, few = a_report(10.0, "hf"), of(a_report(2.0), 2)
    titles = [column.title for column in table.columns([enough, few])]
    rows = table.rows([enough, few])
    calls = next(column for column in table.columns([enough, few]) if column.title == "calls")
    assert "calls" in titles and [calls.text(row) for row in rows] == ["99", "2"]
    assert [row.speedup for row in rows] == [1.0, None]
    (note,) = [note for note in table.notes([enough, few]) if TOO_FEW in note]
    assert note.startswith("op-fp32: ") and "hf" not in note
    assert not [note for note in table.notes([enough]) if TOO_FEW in note]
    texts = [text.get_text() for text in files.sweep_figure([enough, few]).axes[0].texts]
    assert ["too few calls" in text for text in texts] == [False, True]
    assert f"{TOO_FEW}: op-fp32" in shootout.absent([enough, few])
    assert TOO_FEW in files.run_markdown(few) and "| 2 |" in files.run_markdown(few)


def test_of_a_corpus_every_batch_has_to_be_timed() -> None:
    report = dataclasses.replace(of(a_report(), 12), retrieval=Retrieval(passages=400, batches=13))
    assert not floors.enough(report) and floors.enough(of(report, 13))
