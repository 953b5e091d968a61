"""Space that a run keeps free for its own result, so that a disk that fills up meanwhile does not cost it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

RESERVE_FILE = "reserve"
RESERVE_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)


def hold(folder: Path) -> None:
    """Takes the space now. OSError where there is none: better before the measurement than after it."""
    descriptor = os.open(folder / RESERVE_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    except OSError:
        release(folder)
        raise
    finally:
        os.close(descriptor)


def release(folder: Path) -> None:
    """Gives the space back."""
    (folder / RESERVE_FILE).unlink(missing_ok=True)


def written(folder: Path, write: Callable[[], None]) -> None:
    """Calls `write`, and once more on the reserved space of `folder` when the disk is full."""
    try:
        write()
    except OSError as error:
        if error.errno not in FULL or not (folder / RESERVE_FILE).exists():
            raise
        release(folder)
        write()


def told(error: OSError) -> str:
    """One paragraph about a result that could not be written."""
    if error.errno in UNWRITABLE:
        return (
            f"{error.filename or 'the results'}: cannot be written ({error.strerror}). What was written "
            "before is kept. Make room, or choose another place with hydra.run.dir or hydra.sweep.dir."
        )
    return f"{type(error).__name__}: {error}"


def is_full(error: BaseException) -> bool:
    """Whether `error` says that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in FULL
