"""How long a job will take: what its settings say, and what a job like it took."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import a_spec

from harness.run import expected
from harness.run.expected import Expected
from harness.values.report import Phases, Report, Timing
from harness.values.spec import BackendSpec, BatchSpec, DataSpec, LoadSpec, MeasureSpec, RunSpec, RunTimeSpec

SECONDS = a_spec(run_time=RunTimeSpec(seconds=10.0, warmup_seconds=2.0))


def measured(spec: RunSpec = SECONDS, wall_s: float | None = 20.0, **changes: Any) -> Report:
    """A report of a job of which 5 s were neither warm-up nor measurement."""
    timing = Timing(100, 13.0, 2, 8, {"p50": 50.0, "mean": 60.0}, 40.0, 16.0)
    return Report(spec, "finished", timing=timing, phases=Phases(warmup_s=2.0), wall_s=wall_s, **changes)


def test_what_the_settings_say_is_the_least() -> None:
    assert expected.of(SECONDS, []) == Expected(12.0, whole=False)


def test_what_a_job_like_it_took_around_is_added() -> None:
    assert expected.of(SECONDS, [measured()]) == Expected(17.0, whole=True)


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(measured(), status="failed"),
        measured(wall_s=None),
        measured(dataclasses.replace(SECONDS, measure=MeasureSpec(accuracy=False))),
        measured(dataclasses.replace(SECONDS, data=DataSpec("other"))),
        measured(dataclasses.replace(SECONDS, model=dataclasses.replace(SECONDS.model, name="other"))),
    ],
    ids=["failed", "old", "other parts", "other data", "other model"],
)
def test_what_is_not_like_it_tells_nothing(other: Report) -> None:
    assert not expected.of(SECONDS, [other]).whole


def test_the_closest_counts_and_of_those_the_newest() -> None:
    hf = dataclasses.replace(SECONDS, backend=BackendSpec("hf", "eager"))
    newest_first = [measured(hf, 115.0), measured(wall_s=25.0), measured(wall_s=35.0)]
    assert expected.of(SECONDS, newest_first).seconds == 12 + 10
    assert expected.of(hf, newest_first).seconds == 12 + 100


def test_counted_calls_take_what_they_took_before() -> None:
    counted = dataclasses.replace(SECONDS, run_time=RunTimeSpec(iterations=90, warmup_iterations=10))
    assert expected.of(counted, [measured()]) == Expected(100 * 0.06 + 5, whole=True)
    larger = dataclasses.replace(counted, batch=BatchSpec(4, 8))
    assert expected.of(larger, [measured()]) == Expected(5.0, whole=False)


def test_a_search_takes_as_long_as_it_takes() -> None:
    assert not expected.of(dataclasses.replace(SECONDS, load=LoadSpec("server")), [measured()]).whole


def test_accuracy_alone_has_no_timed_part() -> None:
    spec = dataclasses.replace(SECONDS, measure=MeasureSpec(throughput=False))
    scored = dataclasses.replace(measured(spec, 5.0), timing=None, phases=Phases())
    assert expected.of(spec, [scored]) == Expected(5.0, whole=True)


def test_a_sum_is_whole_where_each_part_is() -> None:
    assert expected.total([Expected(1.0, True), Expected(2.0, True)]) == Expected(3.0, True)
    assert expected.total([Expected(1.0, True), Expected(2.0, False)]) == Expected(3.0, False)


def test_reports_of_runs_and_sweeps_are_found_and_broken_ones_left_out(tmp_path: Path) -> None:
    for place in ("runs/one", "sweeps/two/0"):
        measured().write(tmp_path / place)
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/report.json").write_text("{")
    found = expected.reports([tmp_path / "runs", tmp_path / "sweeps", tmp_path / "none"])
    assert found == [measured()] * 2
