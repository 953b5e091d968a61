"""Several processes as one result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_fixtures import a_spec

from harness.run.instances import MIN_OVERLAP, _pooled, merge, overlap
from harness.sinks import load_notes
from harness.values.report import (
    PREDICTIONS_FILE,
    SAMPLES_FILE,
    Energy,
    Identity,
    Observed,
    Report,
    Server,
    Timing,
)
from harness.values.spec import BatchSpec


def timing(**changes: Any) -> Timing:
    fields: dict[str, Any] = {
        "count": 10, "elapsed_s": 10.0, "batch_size": 2, "seq_len": 8, "latency_ms": {"p50": 1.0},
        "throughput_sps": 100.0, "valid_tokens_per_call": 16.0, "began_s": 5.0,
        "observed": Observed(1, (0,), (0,), {"0": 1.0}), "energy": Energy(30.0, 1.5),
    }  # fmt: skip
    return Timing(**(fields | changes))


def pooled(*timings: Timing) -> Timing:
    return _pooled(list(timings), np.ones(20))


def merged(folder: Path, *timings: Timing | None) -> Report:
    """What becomes of one instance for each of `timings`, of which the first has scored."""
    reports, folders = [Report(a_spec(), "finished", timing=one) for one in timings], []
    for number in range(len(timings)):
        folders.append(folder / f"instance-{number}")
        folders[-1].mkdir()
        samples = np.arange(3.0) + 10 * number
        np.savez(folders[-1] / SAMPLES_FILE, latency_ms=samples + 1, service_ms=samples)
    (folders[0] / PREDICTIONS_FILE).write_text("[1, 2]")
    return merge(a_spec(), reports, folders, folder)


def test_all_samples_of_all_instances_are_kept(tmp_path: Path) -> None:
    merged(tmp_path, timing(), timing())
    with np.load(tmp_path / SAMPLES_FILE) as kept:
        assert {name: kept[name].tolist() for name in kept.files} == {
            "latency_ms": [1, 2, 3, 11, 12, 13],
            "service_ms": [0, 1, 2, 10, 11, 12],
        }


@pytest.mark.parametrize("timed", [timing(), None], ids=["timed", "accuracy only"])
def test_the_predictions_lie_where_those_of_a_single_process_lie(
    tmp_path: Path, timed: Timing | None
) -> None:
    merged(tmp_path, timed, timed)
    assert (tmp_path / PREDICTIONS_FILE).read_text() == "[1, 2]"


def test_counters_of_the_shared_are_not_added_up() -> None:
    own = {"own_cpu_s": 4.0, "involuntary_switches": 7.0}
    shared = {"elapsed_s": 5.0, "quota_wait_s": 2.0, "machine_cpus": 8.0, "runnable_after": 3.0}
    longer = shared | {"quota_wait_s": 2.5}
    both = pooled(timing(interference=own | shared), timing(interference=own | longer))
    assert both.interference == {name: 2 * value for name, value in own.items()} | longer


def test_rates_threads_and_cores_add_up_and_energy_is_that_of_the_shared_packages() -> None:
    other = timing(
        throughput_sps=90.0,
        observed=Observed(1, (3,), (1,), {"0": 0.5, "1": 0.5}),
        energy=Energy(32.0, 1.6),
    )
    both = pooled(timing(), other)
    assert both.throughput_sps == 190.0
    assert both.observed == Observed(2, (0, 3), (0, 1), {"0": 0.75, "1": 0.25})
    assert both.energy == Energy(32.0, 32.0 / 40)
    assert not both.noisy


def test_energy_that_one_could_not_read_is_unavailable() -> None:
    absent = Energy(absent_because="may only be read by root")
    assert pooled(timing(), timing(energy=absent)).energy == absent


@pytest.mark.parametrize(
    ("windows", "share"),
    [([(0.0, 10.0), (1.0, 10.0)], 0.9), ([(0.0, 1.0), (2.0, 1.0)], 0.0), ([(3.0, 4.0)], 1.0), ([], 1.0)],
)
def test_how_long_they_measured_together(windows: list[tuple[float, float]], share: float) -> None:
    assert overlap(windows) == pytest.approx(share)


def test_instances_that_hardly_met_are_noisy() -> None:
    both = pooled(timing(), timing(began_s=5.0 + 10 * (1 - MIN_OVERLAP) + 0.5))
    assert both.noisy and "together for only 85% of the time" in both.noisy_because[0]


def test_the_bound_is_met_when_every_instance_has_met_it() -> None:
    met = Server(10.0, 9.9, 5.0, 100.0, True)
    for other, together in ((True, True), (False, False), (None, None)):
        both = pooled(timing(server=met), timing(server=dataclasses.replace(met, met=other))).server
        assert both is not None and (both.rate, both.achieved_rate, both.met) == (20.0, 19.8, together)


def test_the_table_says_how_far_apart_they_are() -> None:
    report = Report(a_spec(), timing=timing(), instances=(90.0, 110.0))
    assert load_notes.spread(report.instances) == pytest.approx(0.2)
    (note,) = load_notes.of(report)
    assert "2 instances, of 90.0 to 110.0 seq/s each (spread 20.0%)" in note


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Server(20.0, 19.0, 5.0, 100.0, True), "20.00 queries/s keep 99 % within 100 ms"),
        (Server(20.0, 19.0, 5.0, 100.0, False), "20.00 queries/s do not keep"),
        (Server(20.0, 19.0, 5.0, 100.0, None), "10 queries are too few to tell"),
        (Server(20.0, 19.0, 150.0, 100.0, False), "cannot be kept: a call alone takes 150.0 ms"),
        (Server(20.0, 19.0, 5.0, 100.0, True, highest_rate=20.0), "the highest rate that keeps"),
    ],
)
def test_what_a_server_run_says(server: Server, words: str) -> None:
    (note,) = load_notes.of(Report(a_spec(), timing=timing(server=server)))
    assert words in note


def test_threads_that_had_nothing_to_do_are_told() -> None:
    report = Report(a_spec(), timing=timing(), identity=Identity(threads=4))
    assert load_notes.of(report) == ["op-fp32 could use 4 threads; 1 did the work."]


def test_lengths_in_a_word() -> None:
    assert load_notes.lengths(BatchSpec(lengths=[3, 5])) == "3,5"
    assert load_notes.lengths(BatchSpec(tokens="text")) == "of text"
    assert load_notes.lengths(BatchSpec()) == "fixed"
