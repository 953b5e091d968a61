"""The lines of a sweep that goes on: pure functions of reports and seconds."""

from __future__ import annotations

import dataclasses

import pytest
from harness_fixtures import a_spec

from harness.sinks import progress
from harness.values.report import NOT_INSTALLED, Accuracy, Failure, Report, Server, Timing

TIMING = Timing(100, 1.0, 2, 8, {"p50": 10.004, "p99": 12.0}, 200.0, 16.0)
SCORED = Accuracy(samples=10, accuracy=0.8, agreement=0.9943)
SERVED = dataclasses.replace(TIMING, server=Server(7, 7, 9.0, 100, True))


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (
            Report(a_spec(), "finished", timing=TIMING, accuracy=SCORED),
            "200.0 seq/s, p50 10.00 ms, accuracy 80.0 %, agreement 99.4 %",
        ),
        (Report(a_spec(), "finished", timing=TIMING), "200.0 seq/s, p50 10.00 ms"),
        (
            Report(a_spec(), "finished", accuracy=Accuracy(samples=4, cosine_min=0.99987)),
            "cosine 0.9999",
        ),
        (
            Report(a_spec(), "finished", timing=SERVED),
            "200.0 seq/s, p50 10.00 ms, p99 12.00 ms, 7.00 queries/s",
        ),
        (Report(a_spec(), "failed", failure=Failure("killed", "By SIGKILL."), accuracy=SCORED),
         "failed, accuracy 80.0 %, agreement 99.4 %"),
        (Report(a_spec(), "failed", failure=Failure(NOT_INSTALLED, "no ipex")), "not installed"),
    ],
    ids=["all", "speed", "no labels", "server", "failed", "not installed"],
)  # fmt: skip
def test_a_result_is_one_line_of_what_was_measured(report: Report, told: str) -> None:
    assert progress.result(report) == told


def test_a_job_has_its_place() -> None:
    assert (progress.place(2, 8), progress.place(2, None)) == ("[3/8]", "[3]")


def test_the_time_that_is_left_is_that_of_the_jobs_done() -> None:
    assert progress.seconds_left(elapsed=30.0, done=3, left=5) == 50.0
    assert progress.seconds_left(elapsed=30.0, done=0, left=5) is None
    assert progress.seconds_left(elapsed=30.0, done=3, left=0) == 0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (40.4, "40 s"), (89, "89 s"), (300, "5 min"), (3590, "1 h"), (7800, "2 h 10 min")],
)
def test_a_length_of_time_as_people_say_it(seconds: float, told: str) -> None:
    assert progress.duration(seconds) == told
