"""python -m harness.log FOLDER: logs measured results to MLflow again, or for the first time.

For results of tracking=none, of a store that was down, of a node that reaches no server, or of a harness that
was killed. Repeating it is harmless: what is already logged stays as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

from harness.ask.schema import ROOT
from harness.run import unfinished
from harness.sinks import console as shown
from harness.sinks import record
from harness.values.errors import UserError
from harness.values.redact import redact


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 logged, 1 the store cannot be used, 2 a wrong command line or an unusable folder."""
    parser = argparse.ArgumentParser(prog="python -m harness.log", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's or a sweep's folder")
    parser.add_argument("--uri", help="store; default: the one chosen when it was measured")
    parser.add_argument(
        "--experiment", help="MLflow experiment; default: the one chosen when it was measured"
    )
    options = parser.parse_args(arguments)
    console = Console()
    for folder in options.folders:
        try:
            status = _log(folder, options.uri, options.experiment, console)
        except OSError as problem:
            shown.error(str(_unusable(folder, problem)))
            return 2
        if status != 0:
            return status
    return 0


def _log(folder: Path, uri: str | None, experiment: str | None, console: Console) -> int:
    try:
        tracking = record.recorded_tracking(folder)
        for run in (folder, *unfinished.marked(folder, 1)):
            unfinished.settle(run)
        jobs = record.results(folder)  # what cannot be read is told before a store is asked for
        if all(report.refused for report, _ in jobs):
            raise UserError("folder", str(folder), "nothing of it was measured", "Measure it again")
    except UserError as problem:
        shown.error(str(problem))
        return 2
    tracking = dataclasses.replace(
        tracking,
        uri=uri or tracking.uri or f"sqlite:///{ROOT}/outputs/mlflow.db",
        experiment=experiment or tracking.experiment,
    )
    try:
        if (folder / record.SWEEP_FILE).is_file():
            record.log_sweep(folder, tracking)
        else:
            record.log_run(folder, tracking)
    except UserError as problem:
        shown.error(str(problem))
        return 1
    console.print(f"{folder} is in {redact(str(tracking.uri))}", highlight=False, markup=False)
    return 0


def _unusable(folder: Path, problem: OSError) -> UserError:
    return UserError(
        "folder", str(folder),
        f"{problem.filename or folder} cannot be read or written ({problem.strerror or problem})",
        "Make it writable, or copy the folder and name the copy",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
