"""Hugging Face's answers in fp32, computed once for all jobs of a sweep that ask for the same.

They are kept under a digest of everything they depend on: the weights themselves, the model's configuration,
the token ids that it gets (and so data, samples, tokenizer, length and seed), and the fingerprint of
processor, threads, settings and versions (and so of torch and transformers). Whatever of it differs, the
answers are computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from harness.worker.backends import Head
from harness.worker.tokens import Batch

Array = NDArray[Any]
# Where a checkpoint lay and what wrote it change nothing in what it computes.
ORIGIN = ("_name_or_path", "transformers_version")


class Reference(Head):
    """The model to compare with, and where its answers are kept.

    folder: of a sweep; None for a job that is alone, which computes them for itself. conditions: fingerprint
    of where they are computed. reused: whether another job had computed what was asked for first.
    """

    def __init__(self, head: Head, folder: Path | None = None, conditions: str = "") -> None:
        super().__init__(head.model)
        self.folder = folder
        self.conditions = conditions
        self.reused = False
        self._asked = False
        self.eval()

    def answers(
        self, batches: Sequence[Batch], order: Array, what: str, compute: Callable[[], Array]
    ) -> Array:
        """The rows that `compute` gives for `batches`, fp32 (rows, width): those that are kept, if they are.

        order: number of the text in each row of the batches. what: which rows these are, e.g. of logits.
        """
        if self.folder is None:
            return compute()
        file = self.folder / f"{self._key(batches, order, what)}.npy"
        found = _read(file, len(order))
        self.reused = self.reused if self._asked else found is not None
        self._asked = True
        if found is not None:
            return found
        rows = compute()
        _write(file, rows)
        return rows

    def _key(self, batches: Sequence[Batch], order: Array, what: str) -> str:
        digest = hashlib.sha256()
        said = (what, type(self.model).__name__, self.conditions, _configuration(self.model))
        digest.update(json.dumps(said).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            _add(digest, name, tensor)
        for number, batch in enumerate(batches):
            for tensor in batch.inputs:
                _add(digest, str(number), tensor)
        _add(digest, "order", torch.from_numpy(np.asarray(order, dtype=np.int64)))
        return digest.hexdigest()


def _configuration(model: transformers.PreTrainedModel) -> str:
    told = json.loads(model.config.to_json_string(use_diff=False))
    told = {name: value for name, value in told.items() if name not in ORIGIN}
    attention = getattr(model.config, "_attn_implementation", None)
    return json.dumps([told, attention], sort_keys=True)


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def _read(file: Path, rows: int) -> Array | None:
    """What is kept; None where nothing is, or where it is no whole answer, which is told."""
    try:
        found: Array = np.load(file, allow_pickle=False)
        if found.dtype != np.float32 or found.ndim != 2 or len(found) != rows or not np.isfinite(found).all():
            raise ValueError(f"its shape is {found.shape}, of {found.dtype}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as problem:
        print(f"{file}: is no whole reference and is computed anew ({problem})", file=sys.stderr)
        return None
    return found


def _write(file: Path, rows: Array) -> None:
    """Keeps `rows`: jobs that run side by side see the whole file or none. A full disk costs no result."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".part")
        with os.fdopen(handle, "wb") as opened:
            np.save(opened, rows)
        os.replace(temporary, file)
    except OSError as problem:
        print(f"{file}: the reference is not kept for other jobs ({problem})", file=sys.stderr)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
