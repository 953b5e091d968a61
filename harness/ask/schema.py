"""The types of the configuration, so that `batch.size=abc` or an unknown field fails while composing.

The fields are those of harness/values/spec.py and are not repeated here: Hydra needs the same dataclasses,
only not frozen, because the command line writes into them.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from harness.values import plugins
from harness.values.errors import UserError
from harness.values.plain import from_plain
from harness.values.settings import SETTINGS
from harness.values.spec import (
    TARGETS,
    BackendSpec,
    BatchSpec,
    DataSpec,
    HostSpec,
    LoadSpec,
    MeasureSpec,
    ModelSpec,
    RunSpec,
    RunTimeSpec,
    WorkloadSpec,
)
from harness.values.view import View

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Precision:
    """What the linear layers and the rest are computed in.

    name: one of `fp32`, `fp32_qint8`, `bf16`, `bf16_qint8`.
    target: for backend=op in an int8 precision: what it has to come to on the data's first 256 texts or pairs
        against fp32, by keeping as few linear layers as that takes unquantized. A number is the mean cosine,
        a mapping bounds `cosine_mean`, `cosine_min`, `flips`, `top1`, `top10`:
        `'precision.target={top10:0.98}'`.
    """

    name: str = MISSING
    target: Any = None


@dataclasses.dataclass
class Tracking:
    """Where results are logged.

    kind: `mlflow` or `none`.
    uri: `sqlite:///file` (made where missing) or an MLflow server; credentials in it are never recorded.
    experiment: the question that this run belongs to.
    """

    kind: str = "mlflow"
    uri: str | None = None
    experiment: str = "bert-op"


@dataclasses.dataclass
class Table:
    """What a table shows beside what it needs. What was measured of no job has no column.

    columns: some of `calls`, `interval`, `p99`, `memory`, `packed`, `load`, `cold`, `energy`, `cosine`, as in
        `'table.columns=[memory,cold]'`.
    """

    columns: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Command:
    """What the command is to do; nothing of it is a setting of what is measured.

    resume: go on with a sweep that was stopped: its finished jobs are kept, the others are measured.
    dry: list the jobs and how long they will take, and measure nothing; `--dry` is the same.
    baseline: whom the speed-ups of a sweep's table are against, under otherwise the same settings: a
        contender or settings, as in `hf-bf16`, `precision=fp32`, `'batch=4 precision=bf16'`. None is Hugging
        Face, its fp32 where that is among the jobs, and where nothing of it is, fp32.
    """

    resume: bool = False
    dry: bool = False
    baseline: str | None = None


def _thawed(spec: type) -> type:
    """A mutable dataclass with the fields and defaults of a frozen one; what has no default is MISSING."""
    hints = typing.get_type_hints(spec)
    fields: list[Any] = []
    for item in dataclasses.fields(spec):
        if item.default_factory is not dataclasses.MISSING:
            default = dataclasses.field(default_factory=item.default_factory)
        else:
            default = dataclasses.field(
                default=MISSING if item.default is dataclasses.MISSING else item.default
            )
        fields.append((item.name, hints[item.name], default))
    return dataclasses.make_dataclass(spec.__name__, fields)


# What the groups are made of, in the order in which people read of them.
SPECS: dict[str, type] = {
    "model": ModelSpec,
    "precision": Precision,
    "backend": BackendSpec,
    "batch": BatchSpec,
    "load": LoadSpec,
    "workload": WorkloadSpec,
    "run_time": RunTimeSpec,
    "data": DataSpec,
    "measure": MeasureSpec,
    "host": HostSpec,
    "tracking": Tracking,
    "table": Table,
}
OF_THE_COMMAND = ("tracking", "table")
GROUPS = {
    name: spec if spec in (Precision, Tracking, Table) else _thawed(spec) for name, spec in SPECS.items()
}

# Of tracking.
KINDS = ("mlflow", "none")
# With two slashes a name stands where a host would, and SQLite has none.
NO_FILE = re.compile(r"sqlite://(?!/)|sqlite:///+$")
STORE_REMEDY = "Name a writable sqlite:///file or a reachable server; tracking=none logs nothing"

# Fields at the root.
NUMBERS = {
    setting.name: setting.default
    for setting in SETTINGS
    if "." not in setting.name and setting.name not in GROUPS
    if setting.elsewhere.by not in ("launch", "group")
}

COMMAND = dataclasses.fields(Command)
COMMAND_TYPES = typing.get_type_hints(Command)


def register() -> None:
    """Makes `base` (the schema of the whole configuration) and the resolvers known to Hydra. Idempotent."""
    config = dataclasses.make_dataclass(
        "Config",
        [(name, schema, dataclasses.field(default_factory=schema)) for name, schema in GROUPS.items()]
        + [(name, int, dataclasses.field(default=value)) for name, value in NUMBERS.items()]
        + [
            (item.name, COMMAND_TYPES[item.name], dataclasses.field(default=item.default)) for item in COMMAND
        ],
    )
    store = ConfigStore.instance()
    store.store(name="base", node=config)
    for name in plugins.backends():
        store.store(group="backend", name=name, node={"name": name, "graph": "own"})
    # The project's folder: Hydra's own paths follow the current directory, and results must not.
    OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
    # `seconds: ${unless:${.iterations},10}`: a value that gives way once the other field is set.
    OmegaConf.register_new_resolver(
        "unless", lambda other, value: None if other is not None else value, replace=True
    )
    # Repetitions are jobs of a sweep, also without -m. None leaves it to -m.
    OmegaConf.register_new_resolver(
        "sweep_if_repeated", lambda repetitions: "MULTIRUN" if repetitions > 1 else None, replace=True
    )


def to_spec(cfg: DictConfig) -> RunSpec:
    """The composed configuration as a RunSpec; not yet checked, see harness/ask/check.py."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    groups = {name: plain[name] for name in GROUPS if name not in ("precision", *OF_THE_COMMAND)}
    for name, kind in typing.get_type_hints(RunSpec).items():
        if name in groups and dataclasses.is_dataclass(kind):
            _refuse_unknown_fields(name, groups[name], [field.name for field in dataclasses.fields(kind)])
    numbers = {name: plain[name] for name in NUMBERS}
    precision = plain["precision"]
    _refuse_unknown_fields("precision", precision, [item.name for item in dataclasses.fields(Precision)])
    chosen = {"precision": precision["name"], "target": _bounds(precision["target"])}
    return from_plain(RunSpec, {**groups, **chosen, **numbers})


def _bounds(target: Any) -> dict[str, float]:
    """precision.target as a mapping: a number alone is the mean cosine."""
    bounds = {} if target is None else target if isinstance(target, dict) else {"cosine_mean": target}
    for name, bound in bounds.items():
        if name not in TARGETS or isinstance(bound, bool) or not isinstance(bound, int | float):
            raise UserError(
                "precision.target", target, "is neither a number nor a mapping of figures to numbers",
                f"Bound some of {', '.join(TARGETS)}, as in 'precision.target={{top10:0.98}}'",
            )  # fmt: skip
    return {str(name): float(bound) for name, bound in bounds.items()}


def _refuse_unknown_fields(group: str, values: dict[str, Any], known: list[str]) -> None:
    """What was appended with `+group.field=value` and is no field."""
    for field, value in values.items():
        if field not in known:
            raise UserError(
                f"{group}.{field}", value, "there is no field of this name", f"Use one of {', '.join(known)}"
            )


def to_view(cfg: DictConfig) -> View:
    """What the composed configuration wants to see; not yet checked."""
    plain: Any = OmegaConf.to_container(cfg.table, resolve=True, throw_on_missing=True)
    _refuse_unknown_fields("table", plain, [item.name for item in dataclasses.fields(Table)])
    return View(cfg.baseline, tuple(plain["columns"]))


def to_tracking(cfg: DictConfig) -> Tracking:
    """The tracking part of the composed configuration.

    Raises:
        UserError: it names no kind of tracking, or no store: better told before measuring than after it.
    """
    plain: Any = OmegaConf.to_container(cfg.tracking, resolve=True, throw_on_missing=True)
    _refuse_unknown_fields("tracking", plain, [field.name for field in dataclasses.fields(Tracking)])
    tracking = from_plain(Tracking, plain)
    if tracking.kind not in KINDS:
        raise UserError(
            "tracking.kind", tracking.kind, "is no kind of tracking", f"Use one of {', '.join(KINDS)}"
        )
    if tracking.kind == "mlflow":
        check_store(tracking.uri)
        if not tracking.experiment.strip() or not tracking.experiment.isprintable():
            raise UserError(
                "tracking.experiment", tracking.experiment, "is no name of an experiment", "Use e.g. bert-op"
            )
    return tracking


def check_store(uri: str | None) -> str:
    """The same `uri`; UserError where nothing could ever be logged to it."""
    if not uri:
        raise UserError(
            "tracking.uri", uri, "names no store", "Set it, or MLFLOW_TRACKING_URI, or use tracking=sqlite"
        )
    if "://" not in uri:
        raise UserError("tracking.uri", uri, "is no URI of an MLflow store", STORE_REMEDY)
    if NO_FILE.match(uri):
        remedy = "Use three slashes and a file, as in sqlite:///mlflow.db"
        raise UserError("tracking.uri", uri, "names no file", remedy)
    return uri
