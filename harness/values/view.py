"""What a user wants to see of a sweep, whatever was measured. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """baseline: whom speed-ups are against, see harness/judge/baseline.py; None for the usual one.

    columns: further columns of the table, names of harness.sinks.columns.CHOICE.
    """

    baseline: str | None = None
    columns: tuple[str, ...] = ()
