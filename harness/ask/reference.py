"""Every group, option and field as a page: `python -m harness.ask.reference > docs/reference.md`.

The words are those of harness/values/spec.py and of the comments that open each option's file, so the page
cannot say anything else than the program does; a test holds the committed page to what this prints.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

from harness.ask.schema import GROUPS, ROOT, Tracking, register
from harness.values.spec import (
    BackendSpec,
    BatchSpec,
    DataSpec,
    HostSpec,
    LoadSpec,
    MeasureSpec,
    ModelSpec,
    RunSpec,
    RunTimeSpec,
)

DOCUMENTED: dict[str, type] = {
    "model": ModelSpec,
    "backend": BackendSpec,
    "batch": BatchSpec,
    "load": LoadSpec,
    "run_time": RunTimeSpec,
    "data": DataSpec,
    "measure": MeasureSpec,
    "host": HostSpec,
    "tracking": Tracking,
}
HEAD = """# Reference: groups, options, fields

Made by `python -m harness.ask.reference > docs/reference.md` from `harness/values/spec.py` and `conf/`: do
not edit it by hand.

A group is chosen by `group=option`, which reads `conf/<group>/<option>.yaml`; a field is set by
`group.field=value`, whatever the option said. Values are typed: what does not fit is refused before anything
runs.
"""


def page() -> str:
    """The whole page, Markdown."""
    register()
    parts = [HEAD]
    parts += [_group(name) for name in _group_names()]
    parts.append(_root_fields())
    return "\n".join(parts)


def _group_names() -> list[str]:
    """Groups with a schema first, in the schema's order; then those that only have options."""
    folders = sorted(
        path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra"
    )
    return [*GROUPS, *(name for name in folders if name not in GROUPS)]


def _group(name: str) -> str:
    lines = [f"## `{name}`", ""]
    spec = DOCUMENTED.get(name)
    if spec is not None:
        lines += [*_docstring(spec), ""]
        lines += ["| field | type | default |", "|---|---|---|"]
        lines += [_field_row(name, field, spec) for field in dataclasses.fields(spec)]
        lines.append("")
    options = sorted((ROOT / "conf" / name).glob("*.yaml"))
    if options:
        lines += ["| option | what it is |", "|---|---|"]
        lines += [f"| `{option.stem}` | {_opening_comment(option)} |" for option in options]
        lines.append("")
    return "\n".join(lines)


def _docstring(spec: type) -> list[str]:
    """The docstring; entries of the form `field: meaning` as a list."""
    lines: list[str] = []
    fields = {field.name for field in dataclasses.fields(spec)}
    for line in inspect.cleandoc(spec.__doc__ or "").splitlines():
        names, colon, meaning = line.strip().partition(": ")
        known = colon and all(part.strip() in fields for part in names.split(","))
        if known and lines and lines[-1] and not lines[-1].startswith("- "):
            lines.append("")
        if known:
            shown = ", ".join(f"`{part.strip()}`" for part in names.split(","))
            lines.append(f"- {shown}: {meaning}")
        elif line.startswith(" ") or (lines and lines[-1].startswith("- ") and line.strip()):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip())
    return lines


def _field_row(group: str, field: dataclasses.Field[Any], spec: type) -> str:
    kind = typing.get_type_hints(spec)[field.name]
    shown = getattr(kind, "__name__", str(kind)) if not typing.get_args(kind) else str(kind)
    shown = shown.replace("typing.", "").replace("|", "or")
    if field.default is not dataclasses.MISSING:
        default = f"`{_yaml(field.default)}`"
    elif field.default_factory is not dataclasses.MISSING:
        default = f"`{_yaml(field.default_factory())}`"
    else:
        default = "the option's"
    return f"| `{group}.{field.name}` | {shown} | {default} |"


def _yaml(value: object) -> str:
    """As it would be written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _opening_comment(option: Path) -> str:
    """The comments that open a file: the command as code, what it means as text."""
    words: list[str] = []
    for line in option.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if text.startswith("@package"):
            continue
        words.append(f"`{text.replace('|', '&#124;')}`<br>" if text.startswith("python -m") else text)
    return " ".join(words).replace("<br> ", "<br>").removesuffix("<br>").strip()


def _root_fields() -> str:
    hints = typing.get_type_hints(RunSpec)
    plain = [
        field
        for field in dataclasses.fields(RunSpec)
        if not dataclasses.is_dataclass(hints[field.name])
        and field.name not in ("precision", "instance", "barrier", "repetition")
    ]
    entries = tuple(f"- `{field.name}`: " for field in plain)
    meanings = [line for line in _docstring(RunSpec) if line.startswith(entries)]
    lines = ["## Fields of no group", "", *meanings, "", "| field | type | default |", "|---|---|---|"]
    lines += [_field_row("", field, RunSpec).replace("`.", "`", 1) for field in plain]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(page(), end="")
