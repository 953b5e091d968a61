"""Every group, option and field as a page: `python -m harness.ask.reference > docs/reference.md`.

The words are those of harness/values/spec.py and of the comments that open each option's file, so the page
cannot say anything else than the program does; a test holds the committed page to what this prints.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path

from harness.ask.schema import GROUPS, ROOT, SPECS, Command, register
from harness.values.settings import SETTINGS, Setting, described, of_group

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
    spec = SPECS.get(name)
    if spec is not None:
        before, _, behind = described(spec)
        settings = of_group(name, spec)
        lines += [before, "", *_meanings(settings), "", *([behind, ""] if behind else [])]
        lines += [*_rows(settings), ""]
    options = sorted((ROOT / "conf" / name).glob("*.yaml"))
    if options:
        lines += ["| option | what it is |", "|---|---|"]
        lines += [f"| `{option.stem}` | {_opening_comment(option)} |" for option in options]
        lines.append("")
    return "\n".join(lines)


def _meanings(settings: Sequence[Setting]) -> list[str]:
    return [f"- `{setting.name.rpartition('.')[2]}`: {setting.meaning}" for setting in settings]


def _rows(settings: Sequence[Setting]) -> list[str]:
    return ["| field | type | default |", "|---|---|---|", *map(_row, settings)]


def _row(setting: Setting) -> str:
    kind = setting.kind
    shown = getattr(kind, "__name__", str(kind)) if not typing.get_args(kind) else str(kind)
    shown = shown.replace("typing.", "").replace("|", "or")
    missing = setting.default is dataclasses.MISSING
    default = "the option's" if missing else f"`{_yaml(setting.default)}`"
    return f"| `{setting.name}` | {shown} | {default} |"


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
    of_jobs = [
        setting
        for setting in SETTINGS
        if "." not in setting.name and setting.name not in GROUPS and setting.elsewhere.by == "user"
    ]
    settings = [*of_jobs, *of_group("", Command)]
    return "\n".join(["## Fields of no group", "", *_meanings(settings), "", *_rows(settings), ""])


if __name__ == "__main__":
    print(page(), end="")
