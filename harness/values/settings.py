"""Every setting once: its name, type, default and meaning, and where people meet it again.

Names, types, defaults and meanings are those of the dataclasses in harness/values/spec.py and of their
docstrings; ELSEWHERE below says the rest. Of this table are made: the types of the configuration and the
reference page (harness/ask), the columns of a table and so of sweep.csv, and the params of MLflow
(harness/sinks).
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from dataclasses import dataclass
from typing import Any, Literal

from harness.values.spec import RunSpec


@dataclass(frozen=True)
class Elsewhere:
    """Where a setting is met beside the command line.

    columns: titles of a table's usual columns that may tell its value; where they do, it needs none of its
        own.
    param: its name among MLflow's params; `dotted` is its own name, None leaves it out.
    unsaid: its default goes without saying in the title of a table.
    shown: a table tells jobs apart by it.
    by: who sets it: the user, the user as a field of a group of another name, the sweep for each of its jobs,
        or the launch for each of its processes.
    """

    columns: tuple[str, ...] = ()
    param: str | None = "dotted"
    unsaid: bool = False
    shown: bool = True
    by: Literal["user", "group", "sweep", "launch"] = "user"


# By the name of a setting, or of a group for those of its settings that are not named.
ELSEWHERE = {
    "model": Elsewhere(("model",)),
    "model.name": Elsewhere(("model",), "model"),
    "model.source": Elsewhere(("weights", "model")),
    "model.package_files": Elsewhere(("model",), None),  # it would be a column of digests
    "precision": Elsewhere(("contender",), "precision"),
    "target": Elsewhere(by="group"),
    "backend.name": Elsewhere(("contender",), "backend"),
    "backend.graph": Elsewhere(("contender",), "graph"),
    "backend.skip_padding": Elsewhere(param="skip_padding"),
    "batch.size": Elsewhere(("batch",), "batch_size"),
    "batch.seq_len": Elsewhere(("seq_len",), "seq_len"),
    "batch.tokens": Elsewhere(("lengths",), "tokens"),
    "batch.lengths": Elsewhere(("lengths",), "lengths", unsaid=True),
    "load.name": Elsewhere(("load",), "load", unsaid=True),
    "workload.corpus": Elsewhere(("data",)),
    "workload.name": Elsewhere(("workload",), "workload", unsaid=True),
    "load.rate": Elsewhere(param="rate"),
    "load.bound_ms": Elsewhere(param="bound_ms"),
    "data": Elsewhere(("data",)),
    "data.name": Elsewhere(("data",), "data"),
    "data.samples": Elsewhere(("data",), "samples"),
    "host.threads": Elsewhere(("threads",)),
    "host.instances": Elsewhere(("instances",), "instances", unsaid=True),
    # Equal for all repetitions of one thing.
    "repetitions": Elsewhere(shown=False),
    "repetition": Elsewhere(shown=False, by="sweep"),
    "instance": Elsewhere(shown=False, by="launch"),
    "barrier": Elsewhere(shown=False, by="launch"),
}
# Last parts of names that say too little alone, or that the results of a table have too.
VAGUE = ("seconds", "size", "source", "accuracy", "throughput", "python")


@dataclass(frozen=True)
class Setting:
    """One setting of a job.

    name: dotted, as typed on the command line: `batch.size`.
    kind: its type.
    default: dataclasses.MISSING where the chosen option has to say it.
    meaning: a sentence or two; empty where its group's docstring has none.
    elsewhere: where it is met again.
    """

    name: str
    kind: Any
    default: Any
    meaning: str
    elsewhere: Elsewhere = Elsewhere()


def of_group(group: str, spec: type) -> tuple[Setting, ...]:
    """The settings of a group, in the order of its dataclass; `group` is empty for those of no group, and of
    RunSpec come those of its groups in their places.
    """
    hints, (_, meanings, _) = typing.get_type_hints(spec), described(spec)
    found: list[Setting] = []
    for field in dataclasses.fields(spec):
        kind, name = hints[field.name], f"{group}.{field.name}" if group else field.name
        if dataclasses.is_dataclass(kind):
            found += of_group(name, typing.cast(type, kind))
            continue
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        elsewhere = ELSEWHERE.get(name, ELSEWHERE.get(group, Elsewhere()))
        found.append(Setting(name, kind, default, meanings.get(field.name, ""), elsewhere))
    return tuple(found)


def described(spec: type) -> tuple[str, dict[str, str], str]:
    """The docstring of a dataclass: what stands before the entries `field: meaning`, the meanings, and what
    stands behind them.
    """
    fields = {field.name for field in dataclasses.fields(spec)}
    before: list[str] = []
    meanings: dict[str, str] = {}
    behind: list[str] = []
    entry: str | None = None
    for line in inspect.cleandoc(spec.__doc__ or "").splitlines():
        name, colon, meaning = line.partition(": ")
        if colon and name in fields:
            entry, meanings[name] = name, meaning
        elif entry is not None and line.startswith(" "):
            meanings[entry] += f" {line.strip()}"
        else:
            entry = None
            (behind if meanings else before).append(line)
    return "\n".join(before).strip(), meanings, "\n".join(behind).strip()


SETTINGS = of_group("", RunSpec)
UNSHOWN = tuple(setting.name for setting in SETTINGS if not setting.elsewhere.shown)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_LEAVES = [setting.name.rpartition(".")[2] for setting in SETTINGS]


def of(name: str) -> Setting:
    """The setting of this name, or the one that it is an entry of: `model.architecture.hidden_size`.

    KeyError where there is none.
    """
    known = name
    while known not in _BY_NAME and "." in known:
        known = known.rpartition(".")[0]
    return _BY_NAME[known]


def flat(spec: RunSpec) -> dict[str, Any]:
    """Every setting that a table may show, and each entry of one that is a dictionary, by its dotted name."""
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}" if name else key, item)
        elif name not in UNSHOWN:
            found[name] = value

    add("", spec.to_plain())
    return found


def title(name: str) -> str:
    """A short name for a setting: its last part where that alone says which one it is."""
    leaf = name.rpartition(".")[2]
    return name if leaf in VAGUE or _LEAVES.count(leaf) > 1 else leaf
