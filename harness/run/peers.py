"""Backends that cannot share an environment with the others, and the interpreters that measure them.

`make peers` builds the environments from the pins in peers/. The measured process is the same worker in all
of them: it finds the harness by PYTHONPATH and needs torch, transformers, NumPy, SciPy, tqdm and the backend.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.values.errors import UserError
from harness.values.spec import BackendSpec

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("ipex", "onnxruntime", "openvino")
STAMP = "installed.txt"


class NotInstalled(UserError):
    """A peer whose environment has not been made, or was made for other pins."""


def interpreter(backend: BackendSpec, root: Path = ROOT) -> str:
    """The Python that measures `backend`: backend.python, else that of its environment, else this one.

    Raises:
        NotInstalled: with the command that installs it.
        UserError: backend.python is no program.
    """
    if backend.python is not None:
        if not os.access(backend.python, os.X_OK) or Path(backend.python).is_dir():
            raise UserError(
                "backend.python", backend.python, "is no program", "Name a Python, e.g. <folder>/bin/python"
            )
        return backend.python
    if backend.name not in PEERS:
        return sys.executable
    environment = root / ".venv-peers" / backend.name
    stamp, pins = environment / STAMP, root / "peers" / f"{backend.name}.txt"
    remedy = f"`make peers PEERS={backend.name}` installs it"
    if not (environment / "bin" / "python").exists() or not stamp.is_file():
        raise NotInstalled("backend", backend.name, "is not installed", remedy)
    if stamp.read_text() != pins.read_text():
        raise NotInstalled(
            "backend", backend.name, f"is installed as it was before peers/{pins.name} changed", remedy
        )
    return str(environment / "bin" / "python")
