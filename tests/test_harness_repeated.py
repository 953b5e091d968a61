"""What is made of the reports of repetitions."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from harness_fixtures import a_spec

from harness.judge import repeated
from harness.sinks import load_notes, table
from harness.values.report import Accuracy, Energy, Failure, Probe, Report, Retrieval, Server, Timing
from harness.values.spec import BackendSpec


def a_report(number: int, p50: float, backend: str = "op", of: int = 6) -> Report:
    spec = a_spec(backend=BackendSpec(backend), repetitions=of, repetition=number)
    latency = {"p50": p50, "min": p50 - 1, "max": p50 + 1, "ci_low": p50 - 0.1, "ci_high": p50 + 0.1}
    timing = Timing(9, 1.0, 2, 8, latency, 2000 / p50, 16.0, tflops=p50, outliers=1)
    return Report(spec, "finished", timing=timing)


def test_a_group_has_the_median_of_its_medians_their_interval_and_spread() -> None:
    whole = repeated.merge([a_report(number, p50) for number, p50 in enumerate([10, 12, 11, 13, 10, 14])])
    assert whole.timing is not None and whole.repeated is not None
    latency = whole.timing.latency_ms
    assert latency["p50"] == 11.5 and (latency["ci_low"], latency["ci_high"]) == (10, 14)
    assert (latency["min"], latency["max"]) == (9, 15)
    assert whole.repeated.spread == pytest.approx(0.140, abs=0.001)
    assert whole.timing.count == 54 and whole.timing.outliers == 6 and whole.timing.tflops == 11.5
    assert Report.from_plain(json.loads(json.dumps(whole.to_plain()))) == whole


def test_too_few_repetitions_have_no_interval() -> None:
    whole = repeated.merge([a_report(number, 10 + number, of=3) for number in range(3)])
    assert whole.timing is not None and "ci_low" not in whole.timing.latency_ms


def test_a_single_measurement_is_left_as_it_is() -> None:
    alone = a_report(0, 10, of=1)
    assert repeated.merged([alone]) == [alone]


def test_what_not_every_repetition_measured_is_absent_and_a_failure_fails_the_group() -> None:
    first, second, third = a_report(0, 10, of=3), a_report(1, 12, of=3), a_report(2, 14, of=3)
    assert second.timing is not None
    second = dataclasses.replace(second, timing=dataclasses.replace(second.timing, tflops=None, noisy=True))
    third = dataclasses.replace(
        third,
        timing=None,
        status="failed",
        failure=Failure("killed", "By SIGKILL."),
        accuracy=Accuracy(5, 0.8),
    )
    whole = repeated.merge([first, second, third])
    assert whole.timing is not None and whole.timing.tflops is None and whole.timing.latency_ms["p50"] == 11
    assert whole.timing.noisy_because == ("repetition 1 of 3",)
    assert whole.status == "failed" and whole.failure is not None
    assert whole.failure.message == "repetition 2 of 3: By SIGKILL."
    assert whole.accuracy == Accuracy(5, 0.8)
    assert whole.repeated is not None and (whole.repeated.asked, len(whole.repeated.measured)) == (3, 2)


def with_timing(report: Report, **changes: Any) -> Report:
    assert report.timing is not None
    return dataclasses.replace(report, timing=dataclasses.replace(report.timing, **changes))


def test_energy_is_the_median_and_absent_where_one_process_could_not_read_it() -> None:
    reports = [with_timing(a_report(n, 10, of=3), energy=Energy(30.0 + n * n, 1.0 + n * n)) for n in range(3)]
    whole = repeated.merge(reports)
    assert whole.timing is not None and whole.timing.energy == Energy(31.0, 2.0)
    unread = Energy(absent_because="may only be read by root")
    whole = repeated.merge([*reports[:2], with_timing(reports[2], energy=unread)])
    assert whole.timing is not None and whole.timing.energy == unread


@pytest.mark.parametrize(
    ("met", "together"),
    [((True, True, True), True), ((True, False, None), False), ((True, None, True), None)],
)
def test_a_server_of_repetitions_has_medians_and_keeps_the_bound_when_all_do(
    met: tuple[bool | None, ...], together: bool | None
) -> None:
    probe = Probe(20.0, 19.0, 662, 50.0, True)
    servers = [Server(20.0 + n * n, 18.0 + n, 5.0, 100.0, one, None, (probe,)) for n, one in enumerate(met)]
    whole = repeated.merge([with_timing(a_report(n, 10, of=3), server=one) for n, one in enumerate(servers)])
    assert whole.timing is not None
    expected = Server(21.0, 19.0, 5.0, 100.0, together, None, (probe, probe, probe))
    assert whole.timing.server == expected
    assert "not every repetition found a rate" in load_notes.of(whole)[0]


def test_the_highest_rate_of_repetitions_is_the_median_of_theirs() -> None:
    servers = [Server(rate, rate, 5.0, 100.0, True, highest_rate=rate) for rate in (20.0, 30.0, 22.0)]
    reports = [with_timing(a_report(n, 10, of=3), server=one) for n, one in enumerate(servers)]
    whole = repeated.merge(reports)
    assert whole.timing is not None and whole.timing.server == servers[2]


def test_the_speedup_of_groups_is_that_of_their_medians_and_of_jobs_that_of_their_round() -> None:
    reports = [a_report(n, p50, "hf") for n, p50 in enumerate([20, 30])]
    reports += [a_report(n, p50) for n, p50 in enumerate([10, 10])]
    assert [row.speedup for row in table.rows(reports)][2:] == [2.0, 3.0]
    hf, op = table.rows(repeated.merged(reports))
    assert hf.speedup == 1 and op.speedup == pytest.approx(2.5, rel=0.05)


def test_tokenizing_takes_the_median_over_the_processes() -> None:
    spec = a_spec(repetitions=3)
    timing = Timing(10, 1.0, 2, 8, {"p50": 1.0, "min": 1.0}, 10.0, 5.0)
    group = [
        Report(
            dataclasses.replace(spec, repetition=number), "finished", timing=timing,
            retrieval=Retrieval(20, tokenize_s=seconds),
        )
        for number, seconds in enumerate((1.0, 3.0, 2.0))
    ]  # fmt: skip
    (whole,) = repeated.merged(group)
    assert whole.retrieval == Retrieval(20, tokenize_s=2.0)
