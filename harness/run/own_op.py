"""Which bert_op a measured process runs: that of this checkout, whatever environment it was started from.

Where this checkout is not built, an installed bert_op is measured, but never that of another checkout: the
harness of one with the op of the other is a measurement of neither.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from harness.values.errors import UserError

LIBRARY = "bert_op/libBertOpPT.so"
VARIABLE = "BERT_OP_PT_LIB"


def folders(root: Path, environment: Mapping[str, str]) -> list[str]:
    """What the checkout `root` puts in front of PYTHONPATH: its `op`, if there is a library for it."""
    op = root / "op"
    return [str(op)] if environment.get(VARIABLE) or (op / LIBRARY).is_file() else []


def check(root: Path, environment: Mapping[str, str]) -> None:
    """Raises UserError where this interpreter would take bert_op from another checkout than `root`."""
    found = importlib.util.find_spec("bert_op")
    if found is None or found.origin is None:
        return  # the worker says that there is none
    home = Path(found.origin).resolve().parents[1]
    if home == (root / "op").resolve():
        return
    if folders(root, environment):
        by_path = PathFinder.find_spec("bert_op")
        if by_path is None or by_path.origin != found.origin:
            raise UserError(
                "backend", "op", f"an editable install makes Python take it from {home}, not from {root}",
                "pip uninstall bert-op",
            )  # fmt: skip
    elif (home.parent / "harness").is_dir():
        raise UserError(
            "backend", "op", f"is not built in {root}, and this Python has that of {home.parent}",
            "Run make in this checkout, or measure in the other",
        )  # fmt: skip
