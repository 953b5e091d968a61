"""`python -m harness.worker.of_build OP LIBRARY SPEC.json`: the worker with another build of the op.

For comparing commits: harness, torch and everything else stay the same. OP is the folder that holds the
package bert_op, LIBRARY its compiled library. An installed bert_op is passed over, however it was installed:
an editable one answers imports before any search path would.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = "bert_op"


class Finder:
    """Answers for bert_op and its modules, before all others, and for nothing else."""

    def __init__(self, op: Path, build: Path) -> None:
        self.op, self.build = str(op), str(build)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module of this build. ModuleNotFoundError where it has none, rather than another build's."""
        if name.partition(".")[0] != PACKAGE:
            return None
        places = [self.op] if path is None else [*path, self.build]
        spec = importlib.machinery.PathFinder.find_spec(name, places)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r} in this build", name=name)
        return spec


def main(arguments: Sequence[str]) -> int:
    """Takes the build in place and becomes the worker; its exit status."""
    if len(arguments) != 3:
        print("usage: python -m harness.worker.of_build OP LIBRARY SPEC.json", file=sys.stderr)
        return 2
    op, library = Path(arguments[0]), Path(arguments[1])
    os.environ["BERT_OP_PT_LIB"] = str(library)
    sys.meta_path.insert(0, Finder(op, library.parent))
    from harness.worker.__main__ import main as worker

    return worker(arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
