"""`python -m harness.gate`: pins a baseline and fails on what is worse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from compare_reports import a_report, save, save_sweep, with_identity

from harness.gate import PASSED, WORSE, WRONG_INPUT, main
from harness.values.report import Accuracy


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """Ten processes of one variant, pinned."""
    file = tmp_path / "baseline.json"
    assert (
        main(["--baseline", str(file), "--write", str(save_sweep(tmp_path / "then", {"op": 1.0}))]) == PASSED
    )
    return file


@pytest.mark.parametrize(
    ("factor", "margin", "status"),
    [
        (1.0, "5%", PASSED),
        (1.1, "5%", WORSE),
        (1.1, "0.2", PASSED),
        (1.03, "5%", PASSED),
        (0.8, "5%", PASSED),
    ],
)
def test_a_loss_beyond_the_margin_fails(
    baseline: Path, tmp_path: Path, factor: float, margin: str, status: int
) -> None:
    now = save_sweep(tmp_path / "now", {"op": factor})
    assert main(["--baseline", str(baseline), "--margin", margin, str(now)]) == status


def test_one_process_does_not_fail_what_may_be_chance(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--baseline", str(baseline), str(save(a_report(10.55), tmp_path / "one"))]) == PASSED
    assert "may be chance" in capsys.readouterr().out
    assert main(["--baseline", str(baseline), str(save(a_report(12.0), tmp_path / "far"))]) == WORSE


def test_lost_accuracy_fails_whatever_the_speed(baseline: Path, tmp_path: Path) -> None:
    worse = dataclasses.replace(a_report(5.0), accuracy=Accuracy(20, 0.85, f1=0.9, data_digest="d"))
    now = str(save(worse, tmp_path / "now"))
    assert main(["--baseline", str(baseline), now]) == WORSE
    assert main(["--baseline", str(baseline), "--accuracy-margin", "6%", now]) == PASSED


@pytest.mark.parametrize(
    ("accuracy", "told"),
    [
        (None, "accuracy is pinned, but was not measured"),
        (Accuracy(20, 0.5, f1=0.5, data_digest="e"), "on other samples"),
    ],
    ids=["not measured", "other samples"],
)
def test_an_accuracy_that_cannot_be_compared_is_neither_a_loss_nor_a_pass(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], accuracy: Accuracy | None, told: str
) -> None:
    unknown = save(dataclasses.replace(a_report(), accuracy=accuracy), tmp_path / "unknown")
    assert main(["--baseline", str(baseline), str(unknown)]) == WRONG_INPUT
    said = capsys.readouterr().out
    assert told in said and "not comparable: " in said
    slower = save(dataclasses.replace(a_report(15.0), accuracy=accuracy), tmp_path / "slower")
    assert main(["--baseline", str(baseline), str(slower)]) == WORSE


def test_what_is_missing_or_of_another_machine_is_no_pass(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = save(a_report(backend="hf"), tmp_path / "hf")
    assert main(["--baseline", str(baseline), str(missing)]) == WRONG_INPUT
    elsewhere = save(with_identity(a_report(), cpu="other"), tmp_path / "elsewhere")
    assert main(["--baseline", str(baseline), str(elsewhere)]) == WRONG_INPUT
    assert "another environment" in capsys.readouterr().out.lower()


def test_a_baseline_is_complete_by_itself_and_only_of_what_finished(tmp_path: Path, baseline: Path) -> None:
    (variant,) = json.loads(baseline.read_text())["variants"]
    assert len(variant["report"]["repeated"]["measured"]) == 10 and len(variant["predictions"]) == 20
    failed = save(dataclasses.replace(a_report(), status="failed"), tmp_path / "failed")
    new = tmp_path / "new.json"
    assert main(["--baseline", str(new), "--write", str(failed)]) == WRONG_INPUT
    twice = [str(save(a_report(), tmp_path / name)) for name in ("a", "b")]
    assert main(["--baseline", str(new), "--write", *twice]) == WRONG_INPUT
    assert not new.exists()


def test_a_baseline_that_cannot_be_written_is_no_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(save(a_report(), tmp_path / "run"))
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "baseline.json", tmp_path):
        assert main(["--baseline", str(place), "--write", run]) == WRONG_INPUT
        assert f"--baseline='{place}': cannot be written" in capsys.readouterr().err


def test_what_is_no_baseline_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(a_report(), tmp_path / "run")
    report = run / "report.json"
    before = report.read_text()
    assert main(["--baseline", str(report), "--write", str(run)]) == WRONG_INPUT
    assert "is there and is no baseline" in capsys.readouterr().err and report.read_text() == before
    for _ in range(2):
        assert main(["--baseline", str(tmp_path / "new.json"), "--write", str(run)]) == PASSED


@pytest.mark.parametrize("now", [0.895, 0.8949])
def test_a_loss_that_is_just_allowed_is_allowed(baseline: Path, tmp_path: Path, now: float) -> None:
    """0.9 - 0.895 is more than 0.005, by its last bit."""
    exact = dataclasses.replace(a_report(), accuracy=Accuracy(20, now, f1=0.9, data_digest="d"))
    status = main(["--baseline", str(baseline), str(save(exact, tmp_path / "now"))])
    assert status == (PASSED if now == 0.895 else WORSE)


def test_what_only_a_disturbed_machine_may_have_slowed_down_is_no_regression(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = a_report(20.0)
    assert report.timing is not None
    busy = dataclasses.replace(report.timing, noisy=True, noisy_because=("a neighbour",))
    now = str(save(dataclasses.replace(report, timing=busy), tmp_path / "now"))
    assert main(["--baseline", str(baseline), now]) == WRONG_INPUT
    said = capsys.readouterr().out
    assert said.startswith("too disturbed to tell: ") and "quieter machine" in said
    assert main(["--baseline", str(baseline), "--margin", "0.99", now]) == WRONG_INPUT


@pytest.mark.parametrize("wrong", ["0", "0%", "1", "100%", "nan", "much"])
def test_a_wrong_confidence_ends_with_2(
    baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--baseline", str(baseline), "--confidence", wrong, str(save(a_report(), tmp_path / "now"))])
    assert end.value.code == WRONG_INPUT and "--confidence" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "default 97.5%" in said and "Exit status: 0 nothing is worse" in said


def test_json_is_for_machines(baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["--baseline", str(baseline), "--json", str(save(a_report(), tmp_path / "now"))]) == PASSED
    (found,) = json.loads(capsys.readouterr().out)
    assert found["outcome"] == "ok" and found["pair"]["verdict"] == "no difference detected"
