"""`python -m harness.worker [--references FOLDER] SPEC.json`: measures what SPEC.json says and writes the
result beside it. In FOLDER the jobs of a sweep keep what they would otherwise all compute.

Exit status 0 when the report is complete, 1 when it is a failed one, 2 for a wrong call, 74 when the disk is
full.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.values import reserve
from harness.values.errors import UserError
from harness.values.report import DISK_FULL, USER_FAILURE
from harness.values.spec import RunSpec
from harness.worker.run import begin, run

MESSAGE_LIMIT = 1000


def main(arguments: Sequence[str]) -> int:
    """Runs the spec that the last argument names; returns the exit status."""
    if len(arguments) not in (1, 3) or list(arguments[:-1:2]) not in ([], ["--references"]):
        print("usage: python -m harness.worker [--references FOLDER] SPEC.json", file=sys.stderr)
        return 2
    path = Path(arguments[-1])
    references = Path(arguments[1]) if len(arguments) == 3 else None
    try:
        spec = RunSpec.read(path)
    except (OSError, ValueError, TypeError) as error:
        print(f"SPEC.json={str(path)!r}: is no spec ({one_paragraph(error)}).", file=sys.stderr)
        return 2
    try:
        return _carry_out(spec, path.parent, references)
    except OSError as error:
        if not reserve.is_full(error):
            raise
        print(f"{path.parent}: {one_paragraph(error)}", file=sys.stderr)
        return DISK_FULL


def _carry_out(spec: RunSpec, folder: Path, references: Path | None) -> int:
    journal = begin(spec, folder)
    try:
        run(spec, journal, references)
    except Exception as error:
        # The parent prints the message of the report; the traceback is for those who ask for it.
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        if isinstance(error, UserError):
            journal.fail(USER_FAILURE, str(error))
        else:
            journal.fail("error", f"{type(error).__name__}: {one_paragraph(error)}")
        return 1
    journal.finish()
    return 0


def one_paragraph(error: BaseException) -> str:
    """The message of any exception on one line; what goes on for pages is cut, and says so."""
    text = " ".join(str(error).split()) or "no message"
    return (
        text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]} ... (HYDRA_FULL_ERROR=1 shows all)"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
