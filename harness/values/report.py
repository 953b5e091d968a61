"""What was measured: a frozen value that is complete by itself.

Standard library only. The worker fills it and rewrites `report.json` after every phase, so that a process
that dies leaves what it had; the parent turns an unfinished one into a failed one. None means "not measured".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.values.plain import from_plain, read_json, to_plain, write_json
from harness.values.quality import Accuracy as Accuracy
from harness.values.quality import Interval as Interval
from harness.values.quality import Retrieval as Retrieval
from harness.values.spec import RunSpec

SPEC_FILE = "spec.json"
REPORT_FILE = "report.json"
SAMPLES_FILE = "samples.npz"
PREDICTIONS_FILE = "predictions.json"
NOT_INSTALLED = "not installed"
CONFIG_FAILURE = "config"
USER_FAILURE = "user"
# Exit status of a worker that could not write its report (EX_IOERR of sysexits.h).
DISK_FULL = 74


@dataclass(frozen=True)
class Failure:
    """Why a job has no complete result.

    kind: USER_FAILURE (a wrong input that only the worker could find), `error` (an exception), `killed` (by a
    signal), `crashed` (a fatal signal or an exit without a report), `timeout`, `interrupted`, `placement` (it
    did not run on the threads, cores or node that were asked for), `disk` (the result could not be written),
    CONFIG_FAILURE (settings that nothing could be measured with), NOT_INSTALLED (a peer that has no
    environment). message: one paragraph. phase: what was running.
    """

    kind: str
    message: str
    phase: str | None = None


@dataclass(frozen=True)
class Identity:
    """What ran, as it was observed. op_build: torch.ops.bert_op.build_info() parsed (backend op only).

    task: the task actually carried out. weights_source: hub, path, package or random; weights_reason: why.
    fingerprint: hash over CPU, tier, versions, threads: reports with different ones are not comparable.
    threads: torch.get_num_threads(); affinity: the CPUs the process could run on; env: settings that matter.
    packages: versions of what the backend is made of, by package.
    """

    git_commit: str | None = None
    git_dirty: bool | None = None
    op_build: dict[str, Any] = field(default_factory=dict)
    isa: str | None = None
    cpu: str | None = None
    torch: str | None = None
    transformers: str | None = None
    python: str | None = None
    task: str | None = None
    weights_source: str | None = None
    weights_reason: str | None = None
    fingerprint: str | None = None
    threads: int | None = None
    affinity: tuple[int, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Phases:
    """Duration of each phase. import, load, pack in seconds; cold_ms: the first forward."""

    import_s: float | None = None
    load_s: float | None = None
    pack_s: float | None = None
    cold_ms: float | None = None
    accuracy_s: float | None = None
    warmup_s: float | None = None


@dataclass(frozen=True)
class Observed:
    """Where the measured window ran, read from /proc, whatever the backend says of itself.

    threads: those that worked, that is, used at least 5 % of the CPU time of the busiest one.
    cores: CPUs that any of them was allowed on; numa_nodes: the nodes of these cores.
    memory_nodes: share of the process's own pages on each node; memory_allowed: nodes it may take memory
    from. allocator: `libc`, `jemalloc`, `tcmalloc` or `mimalloc`, whichever is loaded.
    """

    threads: int
    cores: tuple[int, ...] = ()
    numa_nodes: tuple[int, ...] = ()
    memory_nodes: dict[str, float] = field(default_factory=dict)
    memory_allowed: str | None = None
    allocator: str | None = None


@dataclass(frozen=True)
class Energy:
    """What the processor packages took in the window, other processes included; absent_because: why not.

    joules: of all packages; joules_per_sequence: of each sequence that was computed in the window.
    """

    joules: float | None = None
    joules_per_sequence: float | None = None
    absent_because: str | None = None


UNREAD = Energy(absent_because="it was not read")


@dataclass(frozen=True)
class Probe:
    """One rate that was tried. rate, achieved_rate: queries per second; count: queries measured.

    p99_ms: None where too few queries were measured for it. met: whether at most 1 % of the queries took
    longer than the bound. stopped: the probe ended as soon as the bound could not be met any more.
    """

    rate: float
    achieved_rate: float
    count: int
    p99_ms: float | None
    met: bool | None
    stopped: bool = False


@dataclass(frozen=True)
class Server:
    """What load=server adds: one query is one call; its latency counts from its arrival.

    rate: queries per second offered in the window that Timing describes; achieved_rate: completed per
    second. service_ms: median of a call without its waiting. met: the bound, as in Probe.
    highest_rate: found by search, None where a rate was given or none met the bound. probes: each rate that
    the search tried, in order.
    """

    rate: float
    achieved_rate: float
    service_ms: float
    bound_ms: float
    met: bool | None
    highest_rate: float | None = None
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Timing:
    """The measured part. Every sample is in samples.npz as `latency_ms` (float64, in order of the calls).

    latency_ms: p50, mean, min, max, ci_low, ci_high (95 % interval of the median) and those of p90, p95, p99
        that the number of samples supports. With load=server it counts from the arrival of a query.
    throughput_sps: in sequences per second, batch_size / median; where calls differ in their lengths, at the
        mean of each batch's own median; with load=server, what was completed. tokens_per_s: valid tokens.
    valid_tokens_per_call, padded_tokens_per_call: positions with and without a token, means over the calls;
        skipped_tokens_per_call: padded ones that were not computed.
    tflops: achieved 1e12 operations per second; peak_fraction: of the peak measured beside it.
    interference: counters over the window (context switches, steal, faults, ...).
    noisy_because: one clause for each threshold that was passed; empty when quiet.
    began_s: start of the window on the machine's monotonic clock.
    """

    count: int
    elapsed_s: float
    batch_size: int
    seq_len: int
    latency_ms: dict[str, float]
    throughput_sps: float
    valid_tokens_per_call: float
    skipped_tokens_per_call: float = 0.0
    padded_tokens_per_call: float | None = None
    tokens_per_s: float | None = None
    tflops: float | None = None
    peak_fraction: float | None = None
    outliers: int | None = None
    interference: dict[str, float] = field(default_factory=dict)
    noisy: bool = False
    noisy_because: tuple[str, ...] = ()
    began_s: float | None = None
    observed: Observed | None = None
    energy: Energy = UNREAD
    server: Server | None = None


@dataclass(frozen=True)
class Memory:
    """In 1e6 bytes. peak: VmHWM of the measured part; weights: parameters; packed: the op's arena."""

    peak_mb: float | None = None
    weights_mb: float | None = None
    packed_mb: float | None = None


@dataclass(frozen=True)
class Repetition:
    """One process of several that measured the same thing.

    number: the round of the sweep that it belongs to, from 0. p50_ms, min_ms: median and shortest latency.
    noisy: whether it was disturbed. low_ms, high_ms: 95 % interval of its median, None below six calls.
    calls, elapsed_s: how much it measured; None in reports that are older than these fields.
    """

    number: int
    p50_ms: float
    min_ms: float
    throughput_sps: float
    started_at: str | None = None
    noisy: bool = False
    low_ms: float | None = None
    high_ms: float | None = None
    calls: int | None = None
    elapsed_s: float | None = None


@dataclass(frozen=True)
class Repeated:
    """What a report says that stands for several processes; its timing then has the medians over them.

    asked: how many there were to be; measured: those that have a timing. spread: coefficient of variation of
    their medians (standard deviation / mean), None for fewer than two.
    """

    asked: int
    measured: tuple[Repetition, ...] = ()
    spread: float | None = None


@dataclass(frozen=True)
class Report:
    """One job's result. status: `running` (only on disk, while the worker lives), `finished` or `failed`.

    phase: what the worker was doing when it wrote this. op: bert_op.explain() of the measured model.
    backend: what the backend says of itself: its threads, its settings, what it fused.
    retrieval: with workload=retrieval, what the search came to.
    instances: the reports' throughputs when several processes measured together (host.instances > 1).
    repeated: None for a single process; see harness/run/repetitions.py.
    wall_s: from the start of the job's processes to their end, in seconds.
    """

    spec: RunSpec
    status: str = "running"
    phase: str | None = None
    failure: Failure | None = None
    identity: Identity = Identity()
    phases: Phases = Phases()
    timing: Timing | None = None
    accuracy: Accuracy | None = None
    retrieval: Retrieval | None = None
    memory: Memory = Memory()
    op: dict[str, Any] = field(default_factory=dict)
    backend: dict[str, Any] = field(default_factory=dict)
    instances: tuple[float, ...] = ()
    repeated: Repeated | None = None
    started_at: str | None = None
    wall_s: float | None = None

    @property
    def not_installed(self) -> bool:
        """Whether there was nothing that could have been measured."""
        return self.failure is not None and self.failure.kind == NOT_INSTALLED

    @property
    def refused(self) -> bool:
        """Whether it was clear without starting a worker that nothing could be measured."""
        return self.failure is not None and self.failure.kind in (CONFIG_FAILURE, NOT_INSTALLED)

    @property
    def wrong_input(self) -> bool:
        """Whether it failed because it could not be measured as asked, which is nobody's defect."""
        return self.refused or (self.failure is not None and self.failure.kind == USER_FAILURE)

    def to_plain(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> Report:
        """The inverse of `to_plain`."""
        return from_plain(Report, plain)

    def write(self, folder: Path) -> None:
        """Replaces `<folder>/report.json`, atomically."""
        write_json(folder / REPORT_FILE, self)

    @staticmethod
    def read(folder: Path) -> Report:
        """Reads what `write` wrote. Raises FileNotFoundError or ValueError when there is no whole report."""
        return Report.from_plain(read_json(folder / REPORT_FILE))
