"""What to measure: a frozen value that the parent composes and the worker obeys.

Standard library only, so that both processes can import it. harness/check.py judges it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.values import from_plain, read_json, to_plain, write_json

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
BACKENDS = {"op": PRECISIONS, "hf": ("fp32", "bf16")}
GRAPHS = ("jit", "eager", "compile", "export")
SOURCES = ("auto", "hub", "path", "package", "random")
TASKS = ("auto", "paraphrase-classification", "sentence-embedding", "encoder")
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and where its weights and tokenizer come from.

    source: `auto` tries those of hub, package and random that the fields below make possible, in that order
        (a given path is always meant: `resolve` turns `auto` into `path` then).
    task: `auto` reads the checkpoint: an architecture BertForSequenceClassification is
        `paraphrase-classification`, a `modules.json` (sentence-transformers) beside it is
        `sentence-embedding`, anything else is `encoder`: no label to score, only the error against the
        reference. See `task_of`.
    hub_tokenizer: tokenizer that belongs to hub_id where that repository has none.
    tokenizer: hub id or path that overrides any other tokenizer.
    package, package_folder, package_files: an installed distribution, the folder in it (as in its RECORD)
        that holds the checkpoint, and the SHA-256 of each file to be read, by path below that folder; a
        file that differs is refused, one that is not listed is not read.
    architecture: keywords of transformers.BertConfig, for source `random` (weights seeded with `seed`).
    allow_pickle: false loads safetensors only.
    """

    name: str
    source: str = "auto"
    task: str = "auto"
    hub_id: str | None = None
    hub_revision: str | None = None
    hub_tokenizer: str | None = None
    path: str | None = None
    package: str | None = None
    package_folder: str | None = None
    package_files: dict[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    allow_pickle: bool = False


@dataclass(frozen=True)
class BackendSpec:
    """What runs the model. graph: how it is captured. skip_padding: op only, see bert_op.optimize."""

    name: str = "op"
    graph: str = "jit"
    skip_padding: bool = False


@dataclass(frozen=True)
class BatchSpec:
    """Shape of the timed calls: token ids (size, seq_len).

    tokens: `random` fills every position with random ids (no padding, no tokenizer needed);
    `text` takes texts of `data`, truncated and padded to seq_len, with their attention mask.
    """

    size: int = 4
    seq_len: int = 128
    tokens: str = "random"


@dataclass(frozen=True)
class RunTimeSpec:
    """How long to measure: exactly one of seconds and iterations.

    Warm-up: at most one of its two fields; both None means 10 % of the measured part (`warmup`).
    """

    seconds: float | None = None
    iterations: int | None = None
    warmup_seconds: float | None = None
    warmup_iterations: int | None = None


@dataclass(frozen=True)
class DataSpec:
    """Labelled sentence pairs. Exactly one of: path (TSV, CSV, parquet, JSON, JSON lines), hub_id, shipped
    (file name in harness/data), or none of them: random token ids, which have no labels.

    samples: the first N pairs, or "all". columns: the names of sentence1, sentence2 and label in the source.
    """

    name: str
    path: str | None = None
    hub_id: str | None = None
    hub_config: str | None = None
    hub_split: str | None = None
    shipped: str | None = None
    samples: int | str = 100
    columns: dict[str, str] = field(
        default_factory=lambda: {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}
    )


@dataclass(frozen=True)
class MeasureSpec:
    """Which parts of a run are carried out."""

    accuracy: bool = True
    throughput: bool = True


@dataclass(frozen=True)
class HostSpec:
    """Where the measured process runs; applied before torch is imported.

    threads: None leaves the number to torch, or is the number of pinned cores where cores or numa is given.
    cores: "0-3,8"; numa: a node number, all of its cores. instances: processes that measure at the same time,
    each with its share of the cores. timeout_seconds: wall clock of one job.
    """

    threads: int | None = None
    cores: str | None = None
    numa: int | None = None
    instances: int = 1
    timeout_seconds: float = 3600.0


@dataclass(frozen=True)
class RunSpec:
    """One job: everything that the measured process has to know, and nothing about tracking.

    barrier: folder where instances of one job wait for each other before they measure (each creates
    `ready-<instance>` and goes on when `host.instances` such files are there); None for a single instance.
    """

    model: ModelSpec
    data: DataSpec
    precision: str = "fp32"
    backend: BackendSpec = BackendSpec()
    batch: BatchSpec = BatchSpec()
    run_time: RunTimeSpec = RunTimeSpec(seconds=10.0)
    measure: MeasureSpec = MeasureSpec()
    host: HostSpec = HostSpec()
    seed: int = 0
    instance: int = 0
    barrier: str | None = None

    @property
    def contender(self) -> str:
        """Short name of what is measured, for tables: `hf-fp32`, `op-bf16_qint8`."""
        return f"{self.backend.name}-{self.precision}"

    def to_plain(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> RunSpec:
        """The inverse of `to_plain`."""
        return from_plain(RunSpec, plain)

    def write(self, path: Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self)

    @staticmethod
    def read(path: Path) -> RunSpec:
        """Reads what `write` wrote."""
        return RunSpec.from_plain(read_json(path))


def warmup(run_time: RunTimeSpec) -> tuple[float | None, int | None]:
    """(seconds, iterations) of the warm-up, one of them None; 10 % of the measured part by default."""
    if run_time.warmup_seconds is not None:
        return run_time.warmup_seconds, None
    if run_time.warmup_iterations is not None:
        return None, run_time.warmup_iterations
    if run_time.seconds is not None:
        return run_time.seconds * WARMUP_SHARE, None
    assert run_time.iterations is not None, "check() lets no spec without a measured part pass"
    return None, max(1, round(run_time.iterations * WARMUP_SHARE))


def task_of(architectures: list[str], has_modules_json: bool) -> str:
    """The task of a checkpoint: `architectures` of its config.json, and whether modules.json is beside it."""
    if "BertForSequenceClassification" in architectures:
        return "paraphrase-classification"
    return "sentence-embedding" if has_modules_json else "encoder"
