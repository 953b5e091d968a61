"""load=server: queries arrive as a Poisson process, wait for their turn and are answered one by one.

The queue is the schedule of arrivals itself: what is due and has not been started waits. Latency counts from
the arrival, not from the start, so a slow call is charged to everybody it keeps waiting ("coordinated
omission" is the error of counting it once). Arrivals do not wait for answers, as users do not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from harness import statistics
from harness.report import Probe, Server, Timing
from harness.spec import RunSpec
from harness.worker.throughput import Call, Milliseconds, time_calls, timing, typical_ms
from harness.worker.tokens import Batch
from harness.worker.window import Window, window

PERCENT = 99
MIN_QUERIES = statistics.PERCENTILE_GATES[PERCENT]
MAX_DOUBLINGS = 6
CAPACITY_SECONDS = 1.0


@dataclass(frozen=True)
class Clock:
    """now: seconds; sleep: until about so many seconds later. Tests put a simulated one here."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Served:
    """latency_ms: from the arrival; service_ms: of the call alone; both in order of arrival.

    elapsed_s: from the beginning to the last answer. planned: queries that were to come; there are fewer
    samples when the bound could not be met any more.
    """

    latency_ms: Milliseconds
    service_ms: Milliseconds
    elapsed_s: float
    planned: int


def arrivals(rate: float, count: int, seed: int) -> NDArray[np.float64]:
    """Times in s, from 0, of `count` queries of a Poisson process of `rate` per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def serve(
    call: Call,
    batches: Sequence[Batch],
    times: NDArray[np.float64],
    give_up_ms: float | None = None,
    clock: Clock = Clock(),
) -> Served:
    """Answers the queries that arrive at `times`, with each batch in turn.

    give_up_ms: ends as soon as so many queries took longer that 1 % of all did, whatever comes.
    """
    latencies: list[float] = []
    services: list[float] = []
    allowed = late_allowed(len(times)) if give_up_ms is not None else len(times)
    late = 0
    with torch.inference_mode():
        begin = clock.now()
        for arrival, batch in zip(times, itertools.cycle(batches), strict=False):
            ahead = begin + arrival - clock.now()
            if ahead > 0:
                clock.sleep(ahead)
            start = clock.now()
            call(*batch.inputs)
            end = clock.now()
            services.append(end - start)
            latencies.append(end - begin - arrival)
            late += give_up_ms is not None and latencies[-1] * 1e3 > give_up_ms
            if late > allowed:
                break
        elapsed = clock.now() - begin
    return Served(np.asarray(latencies) * 1e3, np.asarray(services) * 1e3, elapsed, len(times))


def late_allowed(count: int) -> int:
    """How many of `count` queries may take longer than the bound that their p99 keeps (nearest rank)."""
    return count - math.ceil(count * PERCENT / 100)


def measure(
    call: Call,
    batches: Sequence[Batch],
    config: transformers.BertConfig,
    spec: RunSpec,
    capacity: float | None = None,
) -> tuple[Timing, dict[str, Milliseconds]]:
    """The timed part at `load.rate`, or at the highest rate that keeps the bound; as throughput.measure.

    The rate that the search finds is measured once more, on other arrivals, and lowered until it keeps the
    bound there too; that is the timing. Where no rate keeps it, the timing is that of the lowest that was
    tried. capacity: queries per second that back-to-back calls reach; None measures it.
    """
    probes: list[Probe] = []

    def run(rate: float, seed: int, give_up_ms: float | None) -> tuple[Probe, Window, Served]:
        with window(alone=spec.host.instances == 1) as seen:
            served = serve(call, batches, arrivals(rate, queries(spec, rate), seed), give_up_ms)
            seen.sequences = len(served.latency_ms) * spec.batch.size
        return judge(served, rate, spec.load.bound_ms), seen, served

    # Seeded apart from every probe: the highest of several rates that had luck would not have it again.
    seed = spec.seed + 1000 * (1 + spec.instance)
    if spec.load.rate is not None:
        rate = spec.load.rate / spec.host.instances
        probe, seen, served = run(rate, seed, None)
    else:
        capacity = capacity or _capacity(call, batches)
        step = spec.load.resolution * capacity
        probes, found = search(
            lambda r, number: run(r, spec.seed + number, spec.load.bound_ms)[0],
            capacity,
            spec.load.resolution,
        )
        rate = found if found is not None else min(probe.rate for probe in probes)
        probe, seen, served = run(rate, seed, None)
        while found is not None and not probe.met and rate > step:
            probes.append(probe)
            rate, seed = rate - step, seed + 1
            probe, seen, served = run(rate, seed, None)
    highest = rate if spec.load.rate is None and probe.met else None
    server = Server(
        rate=rate,
        achieved_rate=probe.achieved_rate,
        service_ms=statistics.median(served.service_ms),
        bound_ms=spec.load.bound_ms,
        met=probe.met,
        highest_rate=highest,
        probes=tuple(probes),
    )
    result = timing(
        served.latency_ms, served.service_ms, batches, config, spec, seen, calls_per_s=probe.achieved_rate
    )
    samples = {"latency_ms": served.latency_ms, "service_ms": served.service_ms}
    return dataclasses.replace(result, server=server), samples


def queries(spec: RunSpec, rate: float) -> int:
    """How many queries are measured: those that come in run_time; for a search, which has to tell a p99 from
    them, never too few for that.
    """
    if spec.run_time.iterations is not None:
        return spec.run_time.iterations
    assert spec.run_time.seconds is not None, "check() lets no spec without a measured part pass"
    return max(MIN_QUERIES if spec.load.rate is None else 1, round(spec.run_time.seconds * rate))


def _capacity(call: Call, batches: Sequence[Batch]) -> float:
    samples = time_calls(call, batches, seconds=CAPACITY_SECONDS, iterations=None, title="capacity")
    return 1e3 / typical_ms(samples / 1e6, len(batches))


def judge(served: Served, rate: float, bound_ms: float) -> Probe:
    """What a run at `rate` says of the bound."""
    stopped = len(served.latency_ms) < served.planned
    p99 = None if stopped else statistics.percentile(served.latency_ms, PERCENT)
    return Probe(
        rate=rate,
        achieved_rate=len(served.latency_ms) / served.elapsed_s,
        count=len(served.latency_ms),
        p99_ms=p99,
        met=False if stopped else (None if p99 is None else p99 <= bound_ms),
        stopped=stopped,
    )


def search(
    probe: Callable[[float, int], Probe], capacity: float, resolution: float
) -> tuple[list[Probe], float | None]:
    """Every probe in order, and the highest rate that keeps the bound: by bisection, until the rates that
    were met and not met are `resolution` * `capacity` apart. None where even the lowest rate does not keep
    it.

    probe: tries a rate with the seed of a number. It starts at `capacity`, above which the queue grows for as
    long as one measures; a run is finite and the bound may be generous, so it looks above it too.
    """
    tried = [probe(capacity, 0)]
    low, high = 0.0, capacity
    while tried[-1].met:
        low, high = high, high * 2
        if len(tried) > MAX_DOUBLINGS:
            return tried, low
        tried.append(probe(high, len(tried)))
    while high - low > resolution * capacity:
        middle = (low + high) / 2
        tried.append(probe(middle, len(tried)))
        low, high = (middle, high) if tried[-1].met else (low, middle)
    return tried, low or None
