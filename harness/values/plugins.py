"""Backends of other packages, by what they say of themselves when they are installed.

Only the names are read here: what stands behind them is loaded in the measured process alone.
"""

from __future__ import annotations

from importlib import metadata

from harness.values.spec import BACKENDS

BACKEND_GROUP = "bert_op.harness.backends"


def backends() -> dict[str, metadata.EntryPoint]:
    """The installed ones by name. A name of one of our own is not taken: that would be another backend under
    the name of a known one."""
    found = metadata.entry_points(group=BACKEND_GROUP)
    return {point.name: point for point in found if point.name not in BACKENDS}
