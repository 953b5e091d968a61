"""The end of a sweep: what its jobs left decides its exit status and its files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from harness_fixtures import a_spec
from rich.console import Console

from harness.ask.schema import Tracking
from harness.run import sweep
from harness.run.job import FAILED, FINISHED, WRONG_INPUT
from harness.sinks import record
from harness.values.plain import read_json
from harness.values.report import NOT_INSTALLED, Failure, Report, Timing

TIMING = Timing(9, 1.0, 2, 8, {"p50": 10.0}, 200.0, 16.0)
DONE = Report(a_spec(), "finished", timing=TIMING)
CRASHED = Report(a_spec(seed=1), "failed", failure=Failure("killed", "By SIGKILL."))
LACKING = Report(a_spec(seed=2), "failed", failure=Failure(NOT_INSTALLED, "backend ipex: is not installed"))


def jobs_of(folder: Path, *reports: Report | str) -> Path:
    """A sweep's folder with a job for each report; a text is why a job was refused."""
    record.Sweep("an-id", "sweep", Tracking("none")).write(folder)
    for number, one in enumerate(reports):
        job = folder / str(number)
        (job / ".hydra").mkdir(parents=True)
        if isinstance(one, Report):
            one.write(job)
        else:
            record.refuse(job, one)
    return folder


@pytest.mark.parametrize(
    ("jobs", "status"),
    [
        ((DONE,), FINISHED),
        ((DONE, LACKING), FINISHED),
        ((DONE, CRASHED), FAILED),
        ((DONE, "batch.size 0: is less than 1"), WRONG_INPUT),
        (("batch.size 0: is less than 1",), WRONG_INPUT),
    ],
)
def test_the_exit_status_is_that_of_the_worst_job(
    tmp_path: Path, jobs: tuple[Report | str, ...], status: int
) -> None:
    folder = jobs_of(tmp_path / "sweep", *jobs)
    assert sweep.finish(folder, complete=True, console=Console(file=io.StringIO())) == status


def test_an_interrupted_sweep_keeps_its_results_and_says_that_it_is_not_complete(tmp_path: Path) -> None:
    folder = jobs_of(tmp_path / "sweep", DONE)
    (folder / "1/.hydra").mkdir(parents=True)  # its job had only begun
    assert sweep.finish(folder, complete=False, console=Console(file=io.StringIO())) == FAILED
    assert record.Sweep.read(folder).complete is False
    assert len(read_json(folder / "results.json")["variants"]) == 1 and (folder / "sweep.csv").is_file()


def test_of_a_sweep_in_which_nothing_could_be_measured_nothing_is_left(tmp_path: Path) -> None:
    folder = jobs_of(tmp_path / "sweep", "batch.size 0: is less than 1", "batch.size -1: is less than 1")
    out = io.StringIO()
    sweep.finish(folder, complete=True, console=Console(file=out))
    assert not folder.exists()
