"""load=server on a simulated clock: no time passes, and every latency can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worker_tools import ARCHITECTURE, run_spec

from harness.values.report import Probe
from harness.values.spec import BatchSpec, LoadSpec, ModelSpec, RunSpec, RunTimeSpec
from harness.worker import server
from harness.worker.server import Clock, arrivals, judge, late_allowed, search, serve
from harness.worker.tokens import Batch, random_batch

CONFIG = SimpleNamespace(**ARCHITECTURE)
BATCHES = [random_batch(10, [8], 8, seed=0)]


class Simulated:
    """A clock that only sleeping and calls move. seconds: of each call, by its number; the last one stays."""

    def __init__(self, *seconds: float) -> None:
        self.time = 100.0
        self.seconds = seconds
        self.calls = 0

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.time += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        return inputs[0]

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)


def test_a_query_that_arrives_at_an_idle_server_waits_for_nothing() -> None:
    model = Simulated(0.1)
    served = serve(model, BATCHES, np.array([1.0, 2.0]), 500.0, clock=model.clock)
    assert served.latency_ms == pytest.approx([100, 100])
    assert served.elapsed_s == pytest.approx(2.1)


def test_latency_counts_from_the_arrival() -> None:
    """One call that stalls for a second is charged to all whom it keeps waiting, not only to its own
    query.
    """
    model = Simulated(1.0, 0.1)
    served = serve(model, BATCHES, np.array([0.0, 0.2, 0.4, 3.0]), 500.0, clock=model.clock)
    assert served.service_ms == pytest.approx([1000, 100, 100, 100])
    assert served.latency_ms == pytest.approx([1000, 900, 800, 100])


def test_arrivals_are_poisson_and_the_seeds_own() -> None:
    times = arrivals(50.0, 20_000, seed=3)
    gaps = np.diff(times, prepend=0.0)
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03) and gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert (arrivals(50.0, 10, 3) == times[:10]).all() and (arrivals(50.0, 10, 4) != times[:10]).all()
    assert arrivals(100.0, 10, 3) == pytest.approx(times[:10] / 2), "the same crowd, in half the time"


@pytest.mark.parametrize(("count", "allowed"), [(100, 1), (662, 6), (1000, 10), (99, 0)])
def test_how_many_may_be_late(count: int, allowed: int) -> None:
    assert late_allowed(count) == allowed
    ranked = np.sort(np.arange(count) >= count - allowed)
    assert not np.percentile(ranked, 99, method="inverted_cdf")


def test_it_gives_up_as_soon_as_the_bound_cannot_be_met() -> None:
    model = Simulated(0.2)
    served = serve(model, BATCHES, np.arange(1000) * 0.1, 550.0, patient=False, clock=model.clock)
    # Query n waits n tenths of a second: the fifth is the first of more than 550 ms, 11 are too many.
    assert len(served.latency_ms) == 4 + 10 + 1 and served.planned == 1000
    probe = judge(served, 10.0, 500.0)
    assert (probe.met, probe.p99_ms, probe.stopped) == (False, None, True)


def test_too_few_queries_are_no_judgement() -> None:
    model = Simulated(0.01)
    probe = judge(serve(model, BATCHES, arrivals(1, 661, 0), 100.0, clock=model.clock), 1.0, 100.0)
    assert (probe.met, probe.p99_ms) == (None, None)
    probe = judge(serve(model, BATCHES, arrivals(1, 662, 0), 100.0, clock=model.clock), 1.0, 100.0)
    assert probe.met is True and probe.p99_ms is not None and probe.achieved_rate == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("limit", [3.0, 41.0, 99.0, 130.0, 250.0])
def test_search_finds_the_limit_to_its_resolution(limit: float) -> None:
    def probe(rate: float, number: int) -> Probe:
        return Probe(rate, rate, 662, 1.0, rate <= limit)

    probes, found = search(probe, 100.0, 0.02)
    assert found is not None and limit - 2.0 <= found <= limit
    assert probes[0].rate == 100.0 and len(probes) <= 10


def test_search_that_finds_nothing_says_so() -> None:
    probes, found = search(lambda rate, number: Probe(rate, rate, 662, 1.0, False), 100.0, 0.1)
    assert found is None and min(probe.rate for probe in probes) <= 10


def a_spec(**load: object) -> RunSpec:
    return run_spec(
        ModelSpec("tiny"),
        batch=BatchSpec(1, 8),
        load=LoadSpec("server", **load),  # type: ignore[arg-type]
        run_time=RunTimeSpec(iterations=700),
    )


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """A model that takes exactly 10 ms, and time that does not pass."""
    model = Simulated(0.01)
    monkeypatch.setattr(server, "serve", lambda *args: serve(*args, clock=model.clock))
    return model


def test_a_given_rate_is_measured_once(simulated: Simulated) -> None:
    timing, samples = server.measure(simulated, BATCHES, CONFIG, a_spec(rate=20.0, bound_ms=100.0))
    assert timing.server is not None and simulated.calls == 700
    assert (timing.server.rate, timing.server.met, timing.server.probes) == (20.0, True, ())
    assert timing.server.highest_rate is None
    assert timing.server.service_ms == pytest.approx(10)
    assert timing.throughput_sps == timing.server.achieved_rate == pytest.approx(20, rel=0.1)
    assert timing.latency_ms["p99"] > timing.latency_ms["p50"] >= 9.999
    assert len(samples["latency_ms"]) == len(samples["service_ms"]) == 700
    assert timing.padded_tokens_per_call == 0


def test_the_highest_rate_is_searched_and_confirmed(simulated: Simulated) -> None:
    spec = a_spec(bound_ms=50.0)
    timing, _ = server.measure(simulated, BATCHES, CONFIG, spec, capacity=100.0)
    found = timing.server
    assert found is not None and found.highest_rate == found.rate and found.met
    # M/D/1 with calls of 10 ms keeps 99 % below 50 ms up to a load of about 0.7.
    assert 50 < found.rate < 85
    assert timing.latency_ms["p99"] <= 50
    assert any(probe.met for probe in found.probes) and any(not probe.met for probe in found.probes)


def test_a_bound_below_the_calls_own_time_has_no_rate(simulated: Simulated) -> None:
    timing, _ = server.measure(simulated, BATCHES, CONFIG, a_spec(bound_ms=5.0), capacity=100.0)
    assert timing.server is not None
    assert (timing.server.highest_rate, timing.server.met) == (None, False)
    assert timing.server.probes == () and simulated.calls == 700, "a call alone takes too long: no search"


def test_a_rate_far_beyond_the_capacity_comes_to_an_end() -> None:
    model = Simulated(1.0)
    served = serve(model, BATCHES, arrivals(100.0, 1000, 0), 100.0, clock=model.clock)
    assert len(served.latency_ms) < 30
    assert judge(served, 100.0, 100.0).met is False


def test_queries_follow_the_run_time() -> None:
    by_time = RunTimeSpec(seconds=10.0)
    spec = run_spec(ModelSpec("t"), load=LoadSpec("server", rate=5.0), run_time=by_time)
    assert server.queries(spec, 5.0) == 50
    spec = run_spec(ModelSpec("t"), load=LoadSpec("server"), run_time=by_time)
    assert (server.enough(spec, 5.0), server.enough(spec, 100.0)) == (662, 1000)


def test_batches_take_turns() -> None:
    rows: list[int] = []

    def model(*inputs: torch.Tensor) -> torch.Tensor:
        rows.append(len(inputs[0]))
        return inputs[0]

    two: list[Batch] = [random_batch(10, [8] * size, 8, seed=0) for size in (1, 2)]
    serve(model, two, np.zeros(3), 100.0)
    assert rows == [1, 2, 1]
