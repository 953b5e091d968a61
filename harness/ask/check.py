"""The only place where settings are judged. Pure, except that it looks whether given paths exist."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from harness.ask import workloads
from harness.values import plugins
from harness.values.errors import UserError
from harness.values.plain import read_json
from harness.values.spec import (
    ALLOCATORS,
    BACKENDS,
    GRAPHS,
    LENGTHS,
    LOADS,
    PADDINGS,
    PRECISIONS,
    SOURCES,
    TASKS,
    BatchSpec,
    HostSpec,
    ModelSpec,
    RunSpec,
    RunTimeSpec,
    warmup,
)

# How torch's dynamic int8 can run: its operators are none that export or compile know.
INT8_GRAPHS = ("eager", "jit")
# What a p99 needs: harness.values.estimates.PERCENTILE_GATES.
BOUND_QUERIES = 662
# What NumPy and torch both take.
HIGHEST_SEED = 2**32 - 1


def position_limit(model: ModelSpec) -> int | None:
    """Longest seq_len the model can take, or None where only its checkpoint knows.

    Raises:
        UserError: config.json or the architecture says no such number.
    """
    if model.source == "path" and model.path is not None:
        limit = _config_of(model.path).get("max_position_embeddings")
        problem = f"its config.json has max_position_embeddings={limit!r}, no whole number from 1 on"
        wrong = UserError("model.path", model.path, problem, "Repair the checkpoint, or name another one")
    else:
        limit = model.architecture.get("max_position_embeddings")
        setting = "model.architecture.max_position_embeddings"
        wrong = UserError(setting, limit, "is no whole number from 1 on", "Use e.g. 512")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise wrong
    return limit


def _config_of(folder: str) -> dict[str, Any]:
    """The config.json of a checkpoint. UserError where it is none."""
    remedy = "Repair it, or name another folder made by save_pretrained"
    try:
        config = read_json(Path(folder) / "config.json")
    except (OSError, ValueError) as error:  # what is no JSON or no UTF-8 is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError("model.path", folder, f"its config.json cannot be read ({reason})", remedy) from error
    if not isinstance(config, dict):
        raise UserError("model.path", folder, "its config.json holds no object", remedy)
    return config


def resolve(spec: RunSpec) -> RunSpec:
    """The spec with a given path meant: `model.path` beats the option's hub id, package and architecture, and
    `data.path` beats the option's source. Their names become those of the path; paths become absolute."""
    model, data = spec.model, spec.data
    if model.path is not None:
        path = _absolute(model.path)
        model = dataclasses.replace(model, name=path.name, path=str(path))
    if model.path is not None and model.source in ("auto", "path", "package"):
        model = dataclasses.replace(
            model, source="path", hub_id=None, hub_revision=None, hub_tokenizer=None,
            package=None, package_folder=None, package_files={}, architecture={},
        )  # fmt: skip
    if model.tokenizer is not None and _absolute(model.tokenizer).is_dir():
        model = dataclasses.replace(model, tokenizer=str(_absolute(model.tokenizer)))
    if data.path is not None:
        path = _absolute(data.path)
        data = dataclasses.replace(
            data, name=path.name, path=str(path), hub_id=None, hub_config=None, hub_split=None, shipped=None
        )
    backend = spec.backend
    if backend.python is not None:
        backend = dataclasses.replace(backend, python=str(_absolute(backend.python)))
    return workloads.resolve(dataclasses.replace(spec, model=model, data=data, backend=backend))


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def check(spec: RunSpec) -> RunSpec:
    """Returns the resolved spec, or raises UserError naming the first setting that cannot work."""
    spec = resolve(spec)
    _check_choice("precision", spec.precision, PRECISIONS)
    _check_choice("backend.name", spec.backend.name, (*BACKENDS, *plugins.backends()))
    if spec.backend.name in GRAPHS:  # what another package's backend can do, it says itself
        _check_choice("backend.graph", spec.backend.graph, GRAPHS[spec.backend.name])
    _check_choice("model.source", spec.model.source, SOURCES)
    _check_choice("model.task", spec.model.task, TASKS)
    _check_choice("batch.tokens", spec.batch.tokens, ("random", "text"))
    _check_choice("batch.pad_to", spec.batch.pad_to, PADDINGS)
    _check_choice("load.name", spec.load.name, LOADS)
    _check_choice("host.allocator", spec.host.allocator, ALLOCATORS)
    _check_backend(spec)
    _check_target(spec)
    workloads.check(spec)
    _check_model(spec.model)
    _check_data(spec)
    _check_batch(spec)
    _check_lengths(spec.batch)
    _check_run_time(spec.run_time)
    _check_load(spec)
    _check_host(spec.host)
    _check_time(spec)
    _check_seed(spec.seed)
    _check_repetitions(spec)
    if not (spec.measure.accuracy or spec.measure.throughput):
        raise UserError("measure.accuracy", False, "there is nothing to measure", "Set measure=all")
    return spec


def _check_choice(setting: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(setting, value, "is unknown", f"Choose one of {', '.join(known)}")


def _check_backend(spec: RunSpec) -> None:
    supported = BACKENDS.get(spec.backend.name, PRECISIONS)
    if spec.precision not in supported:
        raise UserError(
            "precision", spec.precision, f"backend={spec.backend.name} cannot run it",
            f"Choose one of {', '.join(supported)}, or backend=op",
        )  # fmt: skip
    if spec.backend.name == "hf" and spec.precision == "fp32_qint8" and spec.backend.graph not in INT8_GRAPHS:
        raise UserError(
            "backend.graph", spec.backend.graph, "cannot capture torch's dynamic int8 layers",
            f"Choose one of {', '.join(INT8_GRAPHS)}",
        )  # fmt: skip
    if spec.backend.skip_padding and spec.backend.name != "op":
        raise UserError(
            "backend.skip_padding", True, f"backend={spec.backend.name} computes every position", "Use op"
        )


def _check_target(spec: RunSpec) -> None:
    if not spec.target:
        return
    told = ", ".join(f"{name} {bound:g}" for name, bound in spec.target.items())
    if spec.backend.name != "op" or not spec.precision.endswith("qint8"):
        raise UserError(
            "precision.target", told, f"is for the op in an int8 precision, not for {spec.contender}",
            "Use backend=op and precision=bf16_qint8 or fp32_qint8, or leave the target out",
        )  # fmt: skip
    if not all(0 <= bound <= 1 for bound in spec.target.values()):
        raise UserError("precision.target", told, "is not within 0 and 1", "Use shares, as in 0.999")
    if spec.data.path is None and spec.data.hub_id is None and spec.data.shipped is None:
        raise UserError(
            "precision.target", told, f"is looked for on texts, and data={spec.data.name} has none",
            "Use data=paraphrase, or data.path=<file>",
        )  # fmt: skip


def _check_model(model: ModelSpec) -> None:
    if model.path is not None and model.source != "path":
        raise UserError(
            "model.path",
            model.path,
            f"is given together with model.source={model.source}",
            "Give one of the two",
        )
    needed = {"hub": model.hub_id, "path": model.path, "package": model.package, "random": model.architecture}
    if model.source != "auto" and not needed[model.source]:
        where = {"hub": "model.hub_id", "path": "model.path", "package": "model.package"}
        setting = where.get(model.source, "model.architecture")
        raise UserError("model.source", model.source, f"{setting} is not set", f"Set {setting} or use auto")
    if model.source == "auto" and not any(needed.values()):
        raise UserError(
            "model", model.name, "names no place to take weights from",
            "Set model.path, model.hub_id, model.package or model.architecture",
        )  # fmt: skip
    if model.source == "path" and model.path is not None:
        folder = Path(model.path)
        if not os.path.isdir(folder):  # False, too, for what may not be looked at
            raise UserError("model.path", model.path, "is no folder", "Name a folder made by save_pretrained")
        if not os.path.isfile(folder / "config.json"):
            raise UserError(
                "model.path", model.path, "has no config.json", "Name a folder made by save_pretrained"
            )


def _check_data(spec: RunSpec) -> None:
    data = spec.data
    if data.path is not None and not Path(data.path).is_file():
        raise UserError("data.path", data.path, "is no file", "Name a TSV, CSV, parquet or JSON file")
    if isinstance(data.samples, str) and data.samples != "all":
        raise UserError("data.samples", data.samples, "is neither a number nor 'all'", "Use e.g. 100, or all")
    if not isinstance(data.samples, str) and data.samples < 1:
        raise UserError("data.samples", data.samples, "is less than 1", "Use a number from 1 on, or all")
    missing = [name for name in ("sentence1", "sentence2", "label") if not data.columns.get(name)]
    if missing:
        raise UserError(
            "data.columns", data.columns, f"has no name for {', '.join(missing)}",
            f"Add data.columns.{missing[0]}=<column>",
        )  # fmt: skip
    random_ids = data.path is None and data.hub_id is None and data.shipped is None
    if random_ids and spec.batch.tokens == "text" and spec.workload.corpus is None:
        raise UserError("batch.tokens", "text", f"data={data.name} has no text", "Use e.g. data=paraphrase")


def _check_batch(spec: RunSpec) -> None:
    if spec.batch.size < 1:
        raise UserError("batch.size", spec.batch.size, "is less than 1", "Use a size from 1 on")
    limit = position_limit(spec.model)
    if spec.batch.seq_len < 1 or (limit is not None and spec.batch.seq_len > limit):
        raise UserError(
            "batch.seq_len", spec.batch.seq_len, f"is not within what model {spec.model.name} can take",
            f"Use a length from 1 to {limit if limit is not None else 'its position limit'}",
        )  # fmt: skip


def _check_lengths(batch: BatchSpec) -> None:
    lengths, listed = batch.lengths, isinstance(batch.lengths, list)
    if not listed:
        _check_choice("batch.lengths", lengths, LENGTHS)
    elif not lengths or any(
        type(length) is not int or not 1 <= length <= batch.seq_len for length in lengths
    ):
        raise UserError(
            "batch.lengths", lengths, f"is no list of lengths from 1 to batch.seq_len={batch.seq_len}",
            "Use e.g. batch.lengths=[16,32,64], or a longer batch.seq_len",
        )  # fmt: skip
    if batch.tokens == "text" and lengths != "fixed":
        raise UserError(
            "batch.lengths", lengths, "is given together with batch.tokens=text, whose lengths are its own",
            "Give one of the two",
        )  # fmt: skip
    if batch.mean_length is not None and (
        lengths != "mrpc-like" or not 1 <= batch.mean_length <= batch.seq_len
    ):
        raise UserError(
            "batch.mean_length", batch.mean_length,
            f"is no mean of batch.lengths={lengths} with batch.seq_len={batch.seq_len}",
            "Use it with batch.lengths=mrpc-like, from 1 to batch.seq_len",
        )  # fmt: skip


def _check_load(spec: RunSpec) -> None:
    load, run_time = spec.load, spec.run_time
    if load.name == "single_stream" and spec.batch.size != 1:
        raise UserError(
            "batch.size",
            spec.batch.size,
            "is not 1, as load=single_stream needs it",
            "Use batch=1, or load=offline",
        )
    if load.name != "server":
        if load.rate is not None:
            raise UserError("load.rate", load.rate, f"means nothing to load={load.name}", "Use load=server")
        return
    for setting, number in (("rate", load.rate), ("bound_ms", load.bound_ms)):
        if number is not None and not 0 < number < float("inf"):
            raise UserError(f"load.{setting}", number, "is not positive", "Use e.g. 100")
    if not 0.001 <= load.resolution <= 0.5:
        raise UserError("load.resolution", load.resolution, "is not within 0.001 and 0.5", "Use e.g. 0.05")
    if load.rate is None and spec.host.instances > 1:
        raise UserError(
            "load.rate", None, "the highest rate cannot be searched by several instances at once",
            "Give a rate, which they share, or use host.instances=1",
        )  # fmt: skip
    if load.rate is None and run_time.iterations is not None and run_time.iterations < BOUND_QUERIES:
        raise UserError(
            "run_time.iterations", run_time.iterations, "are too few queries to tell a p99 from",
            f"Use at least {BOUND_QUERIES}, or run_time.seconds",
        )  # fmt: skip


def _check_run_time(run_time: RunTimeSpec) -> None:
    if run_time.seconds is not None and run_time.iterations is not None:
        raise UserError(
            "run_time.seconds", run_time.seconds,
            f"is given together with run_time.iterations={run_time.iterations}", "Give one of the two",
        )  # fmt: skip
    if run_time.seconds is None and run_time.iterations is None:
        raise UserError("run_time.seconds", None, "nothing says how long to measure", "Use run_time=quick")
    if run_time.warmup_seconds is not None and run_time.warmup_iterations is not None:
        raise UserError(
            "run_time.warmup_seconds", run_time.warmup_seconds,
            f"is given together with run_time.warmup_iterations={run_time.warmup_iterations}",
            "Give one of the two",
        )  # fmt: skip
    if run_time.seconds is not None and not 0 < run_time.seconds < float("inf"):
        raise UserError("run_time.seconds", run_time.seconds, "is no positive time", "Use e.g. 10")
    if run_time.iterations is not None and run_time.iterations < 1:
        raise UserError("run_time.iterations", run_time.iterations, "is less than 1", "Use a count from 1 on")
    if run_time.warmup_seconds is not None and not 0 <= run_time.warmup_seconds < float("inf"):
        raise UserError("run_time.warmup_seconds", run_time.warmup_seconds, "is no time", "Use 0 or more")
    if run_time.warmup_iterations is not None and run_time.warmup_iterations < 0:
        raise UserError(
            "run_time.warmup_iterations", run_time.warmup_iterations, "is negative", "Use 0 or more"
        )


def _check_time(spec: RunSpec) -> None:
    """A job whose warm-up and measurement alone take the time it has is sure to be stopped."""
    needed = sum(seconds or 0.0 for seconds in (spec.run_time.seconds, warmup(spec.run_time)[0]))
    if spec.measure.throughput and needed >= spec.host.timeout_seconds:
        raise UserError(
            "host.timeout_seconds", spec.host.timeout_seconds,
            f"is over before warm-up and measurement are, which take {needed:g} s",
            "Give it enough to load the model as well, or measure for a shorter time",
        )  # fmt: skip


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= HIGHEST_SEED:
        raise UserError("seed", seed, "is no seed", f"Use a whole number from 0 to {HIGHEST_SEED}")


def _check_repetitions(spec: RunSpec) -> None:
    if spec.repetitions < 1:
        raise UserError("repetitions", spec.repetitions, "is less than 1", "Use a number from 1 on")
    if not 0 <= spec.repetition < spec.repetitions:
        raise UserError(
            "repetition", spec.repetition, f"is none of {spec.repetitions} repetitions",
            "Leave it to the harness: repetitions=10 measures numbers 0 to 9",
        )  # fmt: skip


def _check_host(host: HostSpec) -> None:
    for setting, number in (("threads", host.threads), ("instances", host.instances)):
        if number is not None and number < 1:
            raise UserError(f"host.{setting}", number, "is less than 1", "Use a number from 1 on")
    if host.cores is not None and host.numa is not None:
        raise UserError(
            "host.cores", host.cores, f"is given together with host.numa={host.numa}", "Give one of them"
        )
    if not 0 < host.timeout_seconds < float("inf"):
        raise UserError("host.timeout_seconds", host.timeout_seconds, "is no positive time", "Use e.g. 3600")
