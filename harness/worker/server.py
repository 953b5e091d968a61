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
from tqdm import tqdm

from harness.values import estimates
from harness.values.report import Probe, Server, Timing
from harness.values.spec import RunSpec
from harness.worker.throughput import BAR_SECONDS, Call, Milliseconds, time_calls, timing, typical_ms
from harness.worker.tokens import Batch
from harness.worker.window import Window, window

PERCENT = 99
MIN_QUERIES = estimates.PERCENTILE_GATES[PERCENT]
MAX_DOUBLINGS = 6
CAPACITY_SECONDS = 1.0
# As share of the capacity: queries hardly ever meet.
ALMOST_IDLE = 0.1
# As multiple of the time in which the queries arrive.
OVERLOAD = 2.0


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
    bound_ms: float,
    patient: bool = True,
    clock: Clock = Clock(),
) -> Served:
    """Answers the queries that arrive at `times`, with each batch in turn.

    patient: False ends it as soon as more than 1 % of all queries have surely missed the bound; True only
    when, beyond that, it takes twice as long as the arrivals: such a queue grows for ever.
    """
    latencies: list[float] = []
    services: list[float] = []
    allowed, late, limit = late_allowed(len(times)), 0, OVERLOAD * max(float(times[-1]), 1.0)
    title = f"{len(times) / times[-1]:.1f} queries/s" if times[-1] > 0 else "queries"
    # Its monitor is a thread that would wake up inside the window.
    tqdm.monitor_interval = 0
    with (
        torch.inference_mode(),
        tqdm(desc=title, total=len(times), unit="query", leave=False, disable=None) as bar,
    ):
        shown = 0.0
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
            late += latencies[-1] * 1e3 > bound_ms
            left = len(times) - len(latencies)
            if (late > allowed and not patient) or (left + late > allowed and left and end - begin > limit):
                break
            if end - begin - shown >= BAR_SECONDS:
                bar.update(len(latencies) - bar.n)
                shown = end - begin
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
    bound there too; that is the timing. Where no rate keeps it, the timing is that of a tenth of the
    capacity, where hardly any query waits for another. capacity: queries per second that back-to-back calls
    reach; None measures it.
    """
    probes: list[Probe] = []
    bound_ms = spec.load.bound_ms

    def run(rate: float, count: int, seed: int, patient: bool = True) -> tuple[Probe, Window, Served]:
        with window(alone=spec.host.instances == 1) as seen:
            served = serve(call, batches, arrivals(rate, count, seed), bound_ms, patient)
            seen.sequences = len(served.latency_ms) * spec.batch.size
        return judge(served, rate, bound_ms), seen, served

    def probe_at(rate: float, number: int) -> Probe:
        return run(rate, enough(spec, rate), spec.seed + number, patient=False)[0]

    # Seeded apart from every probe: the highest of several rates that had luck would not have it again.
    seed = spec.seed + 1000 * (1 + spec.instance)
    found = None
    if spec.load.rate is not None:
        rate = spec.load.rate / spec.host.instances
        probe, seen, served = run(rate, queries(spec, rate), seed)
    else:
        capacity = capacity or _capacity(call, batches)
        step = spec.load.resolution * capacity
        if 1e3 / capacity <= bound_ms:  # otherwise a call alone takes too long
            probes, found = search(probe_at, capacity, spec.load.resolution)
        rate = found if found is not None else ALMOST_IDLE * capacity
        probe, seen, served = run(rate, (queries if found is None else enough)(spec, rate), seed)
        while found is not None and not probe.met and rate > step:
            probes.append(probe)
            rate, seed = rate - step, seed + 1
            probe, seen, served = run(rate, enough(spec, rate), seed)
    highest = rate if found is not None and probe.met else None
    server = Server(
        rate=rate,
        achieved_rate=probe.achieved_rate,
        service_ms=estimates.median(served.service_ms),
        bound_ms=bound_ms,
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
    """How many queries come in run_time."""
    if spec.run_time.iterations is not None:
        return spec.run_time.iterations
    assert spec.run_time.seconds is not None, "check() lets no spec without a measured part pass"
    return max(1, round(spec.run_time.seconds * rate))


def enough(spec: RunSpec, rate: float) -> int:
    """How many queries a search measures: those that come in run_time, but never too few to tell a p99
    from.
    """
    return max(MIN_QUERIES, queries(spec, rate))


def _capacity(call: Call, batches: Sequence[Batch]) -> float:
    samples = time_calls(call, batches, seconds=CAPACITY_SECONDS, iterations=None, title="capacity")
    return 1e3 / typical_ms(samples / 1e6, len(batches))


def judge(served: Served, rate: float, bound_ms: float) -> Probe:
    """What a run at `rate` says of the bound."""
    stopped = len(served.latency_ms) < served.planned
    p99 = None if stopped else estimates.percentile(served.latency_ms, PERCENT)
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
