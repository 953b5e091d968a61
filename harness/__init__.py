"""Benchmark harness: one measured process per run, one report per process, MLflow beside it."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - bert_op itself runs on 3.10
    print(
        f"error: the harness needs Python 3.11 or newer, and this is {sys.version.split()[0]}: "
        "make run PYTHON=python3.11",
        file=sys.stderr,
    )
    raise SystemExit(2)
