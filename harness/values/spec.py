"""What to measure: a frozen value that the parent composes and the worker obeys.

Standard library only, so that both processes can import it. harness/ask/check.py judges it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.values.plain import from_plain, read_json, to_plain, write_json

PRECISIONS = ("fp32", "fp32_qint8", "bf16", "bf16_qint8")
BACKENDS = {
    "op": PRECISIONS,
    "hf": ("fp32", "fp32_qint8", "bf16"),
    "ipex": PRECISIONS,
    "openvino": PRECISIONS,
    "onnxruntime": ("fp32", "fp32_qint8"),
}
# `own`: the backend has a graph of its own and leaves no choice. A contender's name leaves out the first one.
GRAPHS = {
    "op": ("jit", "eager", "compile", "max-autotune", "export"),
    "hf": ("eager", "jit", "compile", "max-autotune", "export"),
    "ipex": ("jit",),
    "openvino": ("own",),
    "onnxruntime": ("own",),
}
SOURCES = ("auto", "hub", "path", "package", "random")
LOADS = ("offline", "single_stream", "server")
WORKLOADS = ("pairs", "retrieval")
LENGTHS = ("fixed", "uniform", "mrpc-like")
PADDINGS = ("seq_len", "longest")
ALLOCATORS = ("default", "jemalloc", "tcmalloc")
TASKS = ("auto", "paraphrase-classification", "sentence-embedding", "encoder")
# Tasks with a decision for each pair; task `encoder` has none.
SCORED_TASKS = ("paraphrase-classification", "sentence-embedding")
# The model types that can be measured: families that the op runs and that take nothing but token ids, their
# types and a mask.
FAMILIES = (
    "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "mpnet", "roberta", "roc_bert",
    "xlm-roberta",
)  # fmt: skip
# Of these, the ones that know no token types, and the backends that run a model without: the peers'
# conversions are those of BERT, and feed all of its inputs.
WITHOUT_TOKEN_TYPES = ("distilbert", "mpnet")
TOKEN_TYPE_BACKENDS = ("hf", "op")
# Beside the weights of a checkpoint, one of them is its tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and where its weights and tokenizer come from.

    name: in tables and in comparisons; a given path sets it to the name of its folder.
    source: `auto` tries those of hub, package and random that the fields below make possible, in that order
        (a given path is always meant: `resolve` turns `auto` into `path` then).
    task: `auto` reads the checkpoint: an architecture ...ForSequenceClassification is
        `paraphrase-classification`, a `modules.json` (sentence-transformers) beside it is
        `sentence-embedding`, anything else is `encoder`: no label to score, only the error against the
        reference. See `task_of`.
    hub_id: repository of the hub, `owner/name`.
    hub_revision: its commit, tag or branch.
    hub_tokenizer: tokenizer that belongs to hub_id where that repository has none.
    path: a folder that save_pretrained made; it beats the option's source.
    package: an installed distribution that holds a checkpoint.
    package_folder: the folder in it, as in its RECORD.
    package_files: the SHA-256 of each file to be read, by path below that folder; a file that differs is
        refused, one that is not listed is not read.
    tokenizer: hub id or path that overrides any other tokenizer.
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
    """What runs the model.

    name: one of BACKENDS.
    graph: how it is captured, one of GRAPHS[name].
    skip_padding: op only, see bert_op.optimize.
    python: the interpreter that measures it; None is this one, or that of `make peers`
        (harness/run/peers.py).
    """

    name: str = "op"
    graph: str = "jit"
    skip_padding: bool = False
    python: str | None = None


@dataclass(frozen=True)
class BatchSpec:
    """Shape of the timed calls: token ids (size, seq_len).

    size: sequences of a call.
    seq_len: token positions of a sequence, padded ones included.
    tokens: `random` ids in rows of the given `lengths`, which need no tokenizer; `text` takes texts of
        `data`, truncated to seq_len.
    lengths: valid tokens of each row of random ids: `fixed` (all seq_len), `uniform` (from 1 to seq_len),
        `mrpc-like` (log-normal with the spread of MRPC's sentence pairs, cut at seq_len), or a list of
        lengths that the rows take in turn.
    mean_length: mean of `mrpc-like` before it is cut; None is MRPC's own, 53 tokens.
    pad_to: every row to `seq_len`, or only to the `longest` of its batch.
    """

    size: int = 4
    seq_len: int = 128
    tokens: str = "random"
    lengths: Any = "fixed"
    mean_length: float | None = None
    pad_to: str = "seq_len"


@dataclass(frozen=True)
class LoadSpec:
    """When the timed calls begin. The words are those of MLPerf Inference's scenarios.

    name: `offline` (one batch right after the other: throughput), `single_stream` (one sequence right after
        the other: latency), `server` (queries of batch.size sequences arrive as a Poisson process and wait
        in a queue; latency counts from the arrival).
    rate: server: queries per second, of all instances together; None searches the highest that meets the
        bound.
    bound_ms: server: what 99 % of the queries have to keep.
    resolution: server: the search ends when it knows the rate to this share of what back-to-back calls reach.
    """

    name: str = "offline"
    rate: float | None = None
    bound_ms: float = 100.0
    resolution: float = 0.05


@dataclass(frozen=True)
class RunTimeSpec:
    """How long to measure: exactly one of seconds and iterations; warm-up: at most one of its two fields.

    seconds: length of the measured part.
    iterations: calls of the measured part; setting it lets an option's seconds give way.
    warmup_seconds: length of the warm-up.
    warmup_iterations: calls of the warm-up; where neither is given it takes 10 % of the measured part.
    """

    seconds: float | None = None
    iterations: int | None = None
    warmup_seconds: float | None = None
    warmup_iterations: int | None = None


@dataclass(frozen=True)
class DataSpec:
    """Labelled sentence pairs, from one of path, hub_id and shipped; from none of them come random token ids,
    which have no labels.

    name: in tables; a given path sets it to the name of its file.
    path: a TSV, CSV, parquet, JSON or JSON lines file.
    hub_id: data set of the hub.
    hub_config: the configuration of that data set.
    hub_split: the part of it that is taken, e.g. `validation`.
    shipped: name of a file in harness/data.
    samples: the first N pairs, or `all`.
    columns: the names of sentence1, sentence2 and label in the source.
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
class WorkloadSpec:
    """What is done with the model, and which figures say how well.

    name: `pairs` (calls of one shape; decisions on, or cosines of, the pairs of `data`) or `retrieval` (a
        corpus is embedded from its longest passage to its shortest, and searched).
    corpus: the passages of retrieval: a folder of .txt files, a .txt file with a passage a line, or a .jsonl
        file; by default the second sentences of `data`, for which the first ones of its paraphrases search.
    field: of each line of a .jsonl corpus, the one that holds the passage.
    """

    name: str = "pairs"
    corpus: str | None = None
    field: str = "text"


@dataclass(frozen=True)
class MeasureSpec:
    """Which parts of a run are carried out.

    accuracy: quality against labels and against Hugging Face in fp32, see docs/method.md.
    throughput: warm-up and timed calls.
    """

    accuracy: bool = True
    throughput: bool = True


@dataclass(frozen=True)
class HostSpec:
    """Where the measured process runs; applied before torch is imported.

    threads: None leaves the number to torch, or is the number of pinned cores where cores or numa is given.
    cores: a list like `0-3,8`, or `all`: one hardware thread of each core that may be used.
    numa: a node number: all of its cores, and its memory.
    instances: processes that measure at the same time, each with its share of the cores.
    allocator: `default` is the C library's, `jemalloc` and `tcmalloc` have to be installed.
    timeout_seconds: wall clock of one job, from its start to its result.

    What came of them is checked in /proc after the measured window; a job that ran elsewhere fails.
    """

    threads: int | None = None
    cores: str | None = None
    numa: int | None = None
    instances: int = 1
    allocator: str = "default"
    timeout_seconds: float = 3600.0


# What precision.target may bound, and whether the figure has to be at least, or at most, that.
TARGETS = ("cosine_mean", "cosine_min", "flips", "top1", "top10")


@dataclass(frozen=True)
class RunSpec:
    """One job: everything that the measured process has to know, and nothing about tracking.

    target: what an int8 precision has to come to on the data's texts against fp32, typed as precision.target:
        figures of bert_op's guard and their bounds. Empty for none.
    seed: of random weights, random token ids, drawn lengths and arrivals; from 0 to 4294967295.
    repetitions: how often the same thing is measured, each time in a fresh process; the variants of a sweep
        take turns. See harness/run/repetitions.py.
    repetition: number of this job among them, from 0.
    instance: number of this process among `host.instances`, from 0.
    barrier: folder where instances of one job wait for each other before they measure (each creates
        `ready-<instance>` and goes on when there are `host.instances` of them); None for a single instance.
    """

    model: ModelSpec
    data: DataSpec
    precision: str = "fp32"
    backend: BackendSpec = BackendSpec()
    batch: BatchSpec = BatchSpec()
    load: LoadSpec = LoadSpec()
    workload: WorkloadSpec = WorkloadSpec()
    run_time: RunTimeSpec = RunTimeSpec(seconds=10.0)
    measure: MeasureSpec = MeasureSpec()
    host: HostSpec = HostSpec()
    target: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    repetitions: int = 1
    repetition: int = 0
    instance: int = 0
    barrier: str | None = None

    @property
    def contender(self) -> str:
        """Short name of what is measured, for tables: `hf-fp32`, `hf-compile-bf16`, `op-bf16_qint8`."""
        name, graph = self.backend.name, self.backend.graph
        usual = GRAPHS.get(name, (graph,))[0]
        return "-".join([name, *([] if graph == usual else [graph]), self.precision])

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
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return "paraphrase-classification"
    return "sentence-embedding" if has_modules_json else "encoder"
