"""Files of an installed distribution, checked one by one; the code of the distribution is never run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.values.errors import UserError


@contextmanager
def checked_files(
    distribution: importlib.metadata.Distribution, folder: str, digests: dict[str, str]
) -> Iterator[Path]:
    """A temporary folder that shows those files of `folder` that `digests` lists, and no other.

    Args:
        distribution: an installed one.
        folder: where the files are, as in the distribution's RECORD.
        digests: SHA-256 of each file, by its path below `folder`.
    Raises:
        UserError: a file is missing or differs from its digest.
    """
    name = distribution.metadata["Name"]
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as staging:
        for path, digest in digests.items():
            source = Path(str(distribution.locate_file(f"{folder}/{path}")))
            _check(name, path, source, digest)
            target = Path(staging) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())
        yield Path(staging)


def _check(name: str, path: str, source: Path, digest: str) -> None:
    if not source.is_file():
        raise UserError("model.package", name, f"has no file {path}", "Reinstall the pinned version")
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest.lower():
        raise UserError(
            "model.package", name, f"{path} has the SHA-256 {found}, not the pinned {digest}",
            "Reinstall the pinned version; do not use a file that was changed",
        )  # fmt: skip
