"""The command line as Hydra needs it, made from what a user types."""

from __future__ import annotations

import re
from pathlib import Path

from harness.values.errors import UserError

MULTIRUN = ("-m", "--multirun")
# Of the whole command.
ONCE = ("resume", "dry")


def flags_first(arguments: list[str]) -> list[str]:
    """`model=x -m batch=1,4` as `-m model=x batch=1,4`: argparse refuses a flag between two overrides."""
    flags = [argument for argument in arguments if argument in MULTIRUN]
    return flags + [argument for argument in arguments if argument not in MULTIRUN]


def dry_as_setting(arguments: list[str]) -> list[str]:
    """`--dry` as `dry=true`: argparse knows Hydra's own flags only."""
    return ["dry=true" if argument == "--dry" else argument for argument in arguments]


def quote_numbers(arguments: list[str], conf: Path) -> list[str]:
    """`batch=1,4` as `batch="1","4"`: Hydra takes a bare number for a value and not for an option's name.

    Only for groups of `conf` that have an option with such a name; everything else is left as it is.
    """
    groups = {path.parent.name for path in conf.glob("*/*.yaml") if path.stem.isdigit()}
    return [_quoted(argument) if argument.partition("=")[0] in groups else argument for argument in arguments]


def refuse_swept_repetitions(arguments: list[str]) -> None:
    """Raises UserError for `repetitions=1,2`, for `repetition=...`, for `resume=true,false` and for several
    baselines: they say how a sweep is measured and shown, and are no axis of one.
    """
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.lstrip("+") == "repetitions" and not re.fullmatch(r"[^,(]*", value):
            raise UserError(name, value, "cannot be swept: each is a part of one sweep", "Give one number")
        if name.lstrip("+") in ONCE and "," in value:
            raise UserError(name, value, "cannot be swept", "Give true or false")
        if name.lstrip("+") == "baseline" and "," in value:
            remedy = "Give one; part several settings by spaces, as in 'baseline=batch=4 precision=fp32'"
            raise UserError(name, value, "cannot be swept", remedy)
        if name.lstrip("+") == "repetition":
            raise UserError(name, value, "is set by the harness", "Ask for several with repetitions=10")


def quote_baseline(arguments: list[str]) -> list[str]:
    """`baseline=precision=fp32` as `baseline="precision=fp32"`: Hydra takes no second `=` in a bare value."""
    return [
        f'baseline="{value}"'
        if name == "baseline" and re.fullmatch(r"[\w=. -]*=[\w=. -]*", value)
        else argument
        for argument in arguments
        for name, _, value in [argument.partition("=")]
    ]


def _quoted(argument: str) -> str:
    group, _, options = argument.partition("=")
    if not re.fullmatch(r"\s*\w+\s*(,\s*\w+\s*)*", options):
        return argument
    return f"{group}=" + ",".join(f'"{option.strip()}"' for option in options.split(","))
