"""Params, metrics and names of a report: what was chosen, what was measured, and nothing else."""

from __future__ import annotations

import dataclasses

from harness_fixtures import a_spec

from harness.sinks import mlflow_values as values
from harness.values.report import Accuracy, Interval, Phases, Report, Timing
from harness.values.spec import BackendSpec, LoadSpec, RunTimeSpec

TIMING = Timing(9, 1.0, 2, 8, {"p50": 10.0}, 200.0, 16.0)


def test_every_choice_is_a_param_once() -> None:
    report = Report(a_spec(backend=BackendSpec("hf", "jit"), seed=7, run_time=RunTimeSpec(iterations=5)))
    found = values.params(report)
    assert (found["backend"], found["graph"], found["seed"]) == ("hf", "jit", "7")
    assert found["run_time"] == "5 iterations" and found["host.timeout_seconds"] == "3600.0"
    assert not {"backend.name", "backend.graph", "batch.size", "repetition", "barrier"} & set(found)


def test_what_a_load_has_no_use_for_is_no_param() -> None:
    offline, server = Report(a_spec()), Report(a_spec(load=LoadSpec("server", rate=20.0)))
    assert "bound_ms" not in values.params(offline) and "rate" not in values.params(offline)
    assert (values.params(server)["rate"], values.params(server)["bound_ms"]) == ("20.0", "100.0")


def test_credentials_in_a_setting_are_hidden_and_digests_are_left_out() -> None:
    model = dataclasses.replace(
        a_spec().model, hub_id="https://me:secret@host/x", package_files={"config.json": "0" * 64}
    )
    found = values.params(Report(a_spec(model=model)))
    assert "secret" not in "".join(found.values())
    assert not [name for name in found if name.startswith("model.package_files")]


def test_a_number_that_was_not_measured_is_absent() -> None:
    assert values.quality_metrics(Report(a_spec())) == {}
    quality = values.quality_metrics(Report(a_spec(), accuracy=Accuracy(100, 0.8, Interval(0.7, 0.9))))
    assert quality == {"accuracy": 0.8, "accuracy_ci_low": 0.7, "accuracy_ci_high": 0.9}
    assert "throughput_sps" not in values.speed_metrics(Report(a_spec()))
    speed = values.speed_metrics(Report(a_spec(), timing=TIMING))
    assert speed["latency_ms/p50"] == 10.0 and "tflops" not in speed


def test_a_run_is_named_by_what_ran_and_by_what_tells_it_apart() -> None:
    report = Report(a_spec(repetitions=3, repetition=1), "finished", timing=TIMING)
    assert values.run_name(report, "seed 1") == "op-fp32 tiny 2x8 seed 1 #2"
    assert values.sweep_name("shootout", [report]) == "shootout: 1 job, tiny"


def test_times_are_those_of_the_report() -> None:
    report = Report(
        a_spec(), "finished", timing=TIMING, phases=Phases(1.0, 2.0, 0.5, 250.0),
        started_at="1970-01-01T00:00:10+00:00",
    )  # fmt: skip
    assert (values.started_ms(report), values.ended_ms(report)) == (10_000, 14_750)
    assert values.ended_ms(dataclasses.replace(report, started_at=None)) is None
