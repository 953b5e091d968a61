"""python -m harness: composes a configuration, measures, logs. `--help` says more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console

from harness.ask import schema
from harness.ask.arguments import (
    dry_as_setting,
    flags_first,
    quote_baseline,
    quote_numbers,
    refuse_swept_repetitions,
)
from harness.ask.composing import Held, Told, no_place, paragraph
from harness.run import job, sweep
from harness.values.errors import UserError
from harness.values.redact import hide_arguments, redact

INTERRUPTED = 130


def main() -> int:
    """Exit status: 0 every job finished, 1 a job failed, 2 wrong command line or configuration."""
    schema.register()
    conf = schema.ROOT / "conf"
    try:
        refuse_swept_repetitions(sys.argv[1:])
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return job.WRONG_INPUT
    sys.argv[1:] = quote_numbers(
        quote_baseline(flags_first(dry_as_setting(hide_arguments(sys.argv[1:])))), conf
    )
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a closed terminal; under nohup it is ignored
        signal.signal(signal.SIGHUP, _interrupt)
    os.environ.pop(sweep.VARIABLE, None)
    statuses: list[int] = []
    held = Held()

    @hydra.main(config_path=str(conf), config_name="config", version_base="1.3")
    def app(cfg: DictConfig) -> int:
        held.release()
        statuses.append(job.FAILED)  # until it returns
        statuses[-1] = job.run(cfg)
        return statuses[-1]

    status = _run(app, held)
    if sweep.VARIABLE in os.environ:
        folder = Path(os.environ[sweep.VARIABLE])
        ended = sweep.finish(folder, status == job.FINISHED, Console())
        return status or ended
    return status or max(statuses, default=job.FINISHED)


def _run(app: Callable[[], object], held: Held) -> int:
    """Runs Hydra's part. It ends with 1 for what it cannot compose; for us that is a wrong command line."""
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        with contextlib.nullcontext() if full else held.holding():
            app()
    except Told as end:
        held.show()
        return end.status
    except SystemExit as end:
        if not end.code:
            held.show()
            return job.FINISHED
        # Hydra tells an exception and exits while it handles it.
        said, cause = held.take(), end.__context__
        if said:
            # Hydra makes the folders of runs and sweeps before it calls anything of ours.
            # Its own errors, some of which are OSErrors too, are of the command line.
            if isinstance(cause, OSError) and not isinstance(cause, HydraException):
                told = f"error: {no_place(cause)}"
            else:
                told = paragraph(said)
            print(redact(told), file=sys.stderr)
        return job.WRONG_INPUT
    except KeyboardInterrupt:
        held.show()
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # only with HYDRA_FULL_ERROR=1, otherwise Hydra tells it in a paragraph
        print(redact(traceback.format_exc()), file=sys.stderr)
        return job.WRONG_INPUT
    held.show()  # where a launcher ran the jobs in other processes, nothing has released it
    return job.FINISHED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
