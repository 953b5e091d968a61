"""A sweep that goes on tells of its jobs: their number, their names, the time that is left."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_fixtures import a_spec

from harness.ask.schema import Tracking
from harness.run import plan, unfinished, watching
from harness.sinks import record
from harness.values.report import Report

Cli = Callable[..., int]


def a_sweep(folder: Path, ended: list[float], total: int | None = 8) -> record.Sweep:
    """A sweep that began at 1000 s, with a job for each of the times at which one ended."""
    sweep = record.Sweep("id", "sweep", Tracking("none"), total=total, swept=("seed", "batch"), began=1000.0)
    sweep.write(folder)
    for number, when in enumerate(ended):
        (folder / str(number) / ".hydra").mkdir(parents=True)
        Report(a_spec(seed=number), "finished").write(folder / str(number))
        os.utime(folder / str(number) / "report.json", (when, when))
    return sweep


def test_the_time_that_is_left_counts_what_has_ended_since_the_sweep_began(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, [500.0, 1010.0, 1020.0])
    assert watching.left(tmp_path, sweep, now=1020.0) == "60 s", "two jobs took 20 s, six are left"
    unfinished.mark(tmp_path / "2")
    assert watching.left(tmp_path, sweep, now=1020.0) == "2 min", "one took 20 s, seven are left"


def test_jobs_that_are_kept_take_no_time(tmp_path: Path) -> None:
    # Job 3 was settled by this very start, just before it began.
    sweep = a_sweep(tmp_path, [500.0, 1000.0, 1020.0, 999.9])
    sweep = dataclasses.replace(sweep, kept=("0", "1"))
    assert watching.left(tmp_path, sweep, now=1020.0) == "2 min", "one took 20 s, five are left"
    assert watching.left(tmp_path, dataclasses.replace(sweep, total=6), now=1020.0) == "60 s"


def test_no_time_is_told_where_there_is_none(tmp_path: Path) -> None:
    assert watching.left(tmp_path, a_sweep(tmp_path / "none", []), now=1020.0) is None
    for name, total in (("all", 1), ("unknown", None)):
        sweep = a_sweep(tmp_path / name, [1010.0], total)
        assert watching.left(tmp_path / name, sweep, now=1020.0) is None


def test_a_refused_job_is_over_too(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, [], total=2)
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    record.refuse(tmp_path / "0", "batch.size=0: is less than 1")
    assert watching.left(tmp_path, sweep, now=1005.0) == "5 s"


def test_a_name_tells_what_the_sweep_goes_through(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, [])
    words = ["batch=2", "seed=1", "run_time=smoke"]
    assert watching.name(a_spec(), sweep, words) == "op-fp32, tiny, batch 2 x 8, seed=1"
    assert watching.name(a_spec()) == "op-fp32, tiny, batch 2 x 8"


def test_each_job_has_its_number_its_result_and_the_time_that_is_left(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "precision=glob(fp32*)", "seed=0,1", "tracking=none") == 0
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in lines] == [f"[{n}/4]" for n in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert lines[2].startswith("[2/4] op-fp32, minilm, batch 4 x 128, seed=1  -> ")
    assert all(" seq/s, p50 " in line and "accuracy 80.0 %" in line for line in lines[1::2])
    assert [" left)" in line for line in lines[1::2]] == [True, True, True, False]
    assert "\r" not in out + err


def test_a_run_of_its_own_has_no_number(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("tracking=none") == 0
    assert capfd.readouterr().out.startswith("op-fp32, minilm, batch 4 x 128  -> ")


def test_repetitions_are_jobs(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("repetitions=2", "tracking=none") == 0
    assert "[2/2] op-fp32, minilm, batch 4 x 128, repetition=1  -> " in capfd.readouterr().out


def test_only_the_sweeper_of_all_combinations_knows_its_jobs_beforehand() -> None:
    from omegaconf import OmegaConf

    other = OmegaConf.create({"hydra": {"sweeper": {"_target_": "optuna"}, "overrides": {"task": []}}})
    assert plan.overrides(other) is None
