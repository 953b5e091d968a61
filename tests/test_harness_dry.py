"""--dry: the jobs of a command line, their differences and their time; nothing is measured or written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.ask.arguments import dry_as_setting
from harness.ask.schema import ROOT
from harness.run import dry, job
from harness.values.report import Report

Cli = Callable[..., int]


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the checkout has in outputs/ is not what these tests are about."""
    monkeypatch.setattr(dry, "ROOT", tmp_path / "checkout")


def table(said: str) -> list[list[str]]:
    """The words of each line of the listing that is about a job."""
    return [line.split() for line in said.splitlines() if line[:1].isdigit() and "/" in line.split()[0]]


def test_the_jobs_of_a_sweep_are_listed_with_what_tells_them_apart(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "launch", None)
    assert cli("-m", "--dry", "precision=fp32,bf16", "seed=0,1", "run_time.seconds=10") == 0
    said = capfd.readouterr().out
    assert [row[:3] for row in table(said)] == [
        ["1/4", "op-fp32", "0"], ["2/4", "op-fp32", "1"], ["3/4", "op-bf16", "0"], ["4/4", "op-bf16", "1"],
    ]  # fmt: skip
    assert "job  contender  seed  time" in said and "model minilm, batch 4, seq_len 128" in said
    assert "4 jobs, at least 44 s one after another" in said and "Nothing was measured." in said
    assert not (tmp_path / "sweep").exists() and not (tmp_path / "run").exists()


def test_a_run_is_one_job(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("precision=bf16", "--dry", "run_time.seconds=10") == 0
    said = capfd.readouterr().out
    assert [row[:2] for row in table(said)] == [["1/1", "op-bf16"]] and "1 job, at least 11 s" in said
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_and_repetitions_are_listed_in_turns(
    cli: Cli, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=quickstart", "repetitions=2", "--dry") == 0
    rows = table(capfd.readouterr().out)
    assert len(rows) == 10 and rows[0][1:3] == ["hf-fp32", "0"] and rows[5][1:3] == ["hf-fp32", "1"]


def test_the_time_is_that_of_what_was_measured_before(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ["run_time.seconds=10", "tracking=none"]
    assert cli("-m", "seed=0", *settings) == 0
    capfd.readouterr()
    assert cli("-m", "seed=0,1", *settings, "--dry") == 0
    said = capfd.readouterr().out
    assert "2 jobs, about " in said and "at least" not in said


def test_what_would_be_refused_is_told(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("-m", "batch.size=0,1", "--dry") == 0
    said = capfd.readouterr().out
    assert "refused: batch.size=0: is less than 1" in said and len(table(said)) == 2
    assert cli("batch.size=0", "--dry") == 2
    assert cli("-m", "batch=7,1", "--dry") == 2
    assert "is no option of this group" in "".join(capfd.readouterr())


def test_what_a_resumed_sweep_would_keep_is_told(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "seed=0,1", "tracking=none") == 0
    report = tmp_path / "sweep/1/report.json"
    report.write_text(report.read_text().replace('"finished"', '"failed"'))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capfd.readouterr()
    assert cli("-m", "seed=0,1", "tracking=none", "resume=true", "--dry") == 0
    said = capfd.readouterr().out
    assert [row[-1] == "kept" for row in table(said)] == [True, False]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert Report.read(tmp_path / "sweep/1").status == "failed"


def test_the_setting_is_the_flag(cli: Cli, tmp_path: Path) -> None:
    assert dry_as_setting(["-m", "--dry", "batch=1"]) == ["-m", "dry=true", "batch=1"]
    assert cli("dry=true") == 0 and not (tmp_path / "run").exists()
    assert cli("-m", "dry=true,false") == 2


def test_it_loads_no_torch_and_no_store(tmp_path: Path) -> None:
    code = (
        "import sys; from harness import __main__ as command; status = command.main(); "
        "print(status, sorted({'torch', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    words = ["-m", "--dry", "precision=fp32,bf16", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["0 []"], done.stderr
    assert "\r" not in done.stdout + done.stderr and "…" not in done.stdout
