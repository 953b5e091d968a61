"""In which settings the jobs of a sweep differ, whatever they are: pure functions of their specs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from harness.values.settings import flat
from harness.values.spec import RunSpec


def varied(specs: Sequence[RunSpec]) -> list[str]:
    """Dotted names of the settings that are not the same for all, in the order of the specs' fields."""
    each = [flat(spec) for spec in specs]
    names = dict.fromkeys(name for one in each for name in one)
    return [name for name in names if len({_frozen(one.get(name)) for one in each}) > 1]


def reader(name: str, specs: Sequence[RunSpec]) -> Callable[[RunSpec], str]:
    """What says the value of a setting, of any of `specs`, as a person reads it.

    Of absolute paths, as many parts from their ends as it takes to tell them apart.
    """
    values = [flat(spec).get(name) for spec in specs]
    found = tails({value for value in values if isinstance(value, str) and value.startswith("/")})

    def read(spec: RunSpec) -> str:
        value = flat(spec).get(name)
        return found.get(value, value) if isinstance(value, str) else _text(value)

    return read


def tails(paths: Collection[str]) -> dict[str, str]:
    """Of each of `paths`, as many parts from its end as it takes to tell all of them apart."""
    parts = {path: PurePosixPath(path).parts for path in paths}
    for count in range(1, max((len(part) for part in parts.values()), default=0) + 1):
        found = {path: "/".join(part[-count:]) for path, part in parts.items()}
        if len(set(found.values())) == len(found):
            return found
    return {path: path for path in paths}


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
