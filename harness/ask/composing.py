"""What Hydra says of a command line that it cannot compose or begin with, in one paragraph."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator

from harness.values.redact import redact

_HELP = "`python -m harness --help` lists groups, options and fields."


class Told(SystemExit):
    """Ends the command with `status`; why has been shown."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Held:
    """Keeps what is written to stderr until it is clear whether Hydra could compose."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self._stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        with self._stack:
            self._stack.enter_context(contextlib.redirect_stderr(self._text))
            yield

    def release(self) -> None:
        """From here on stderr is itself again; what was held is written."""
        self._stack.close()
        self.show()

    def show(self) -> None:
        """Writes what is still held: nothing of it may be swallowed."""
        sys.stderr.write(redact(self.take()))

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """In a launcher's other process there is nothing to hold: a job there has been composed."""
        return Held, ()

    def take(self) -> str:
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text


def paragraph(text: str) -> str:
    """Hydra's message `text` as one paragraph that names the setting, the value and the remedy, as far as
    Hydra tells them.
    """
    if found := re.search(r"Could not find '([\w-]+)/([^']+)'", text):
        group, option = found.groups()
        options = re.search(r"Available options in '[^']+':\n((?:\t.*\n)+)", text)
        names = ", ".join(options.group(1).split()) if options else ""
        extras = " The extras slurm and joblib install others." if group == "hydra/launcher" else ""
        return f"error: {group}={option}: is no option of this group. Choose one of {names}.{extras}"
    if found := re.search(r"Could not override '([^']+)'", text):
        setting = found.group(1)
        kind = "field" if "." in setting else "group or field"
        given = re.search(r"use \+(.*)", text)
        return f"error: {given.group(1) if given else setting}: there is no {kind} of this name. {_HELP}"
    if found := re.search(r"Error merging override ([^=\n]+)=(.*)\n(.*)", text):
        setting, value, problem = found.groups()
        wanted = re.search(r"could not be converted to (\w+)", problem)
        remedy = f"Give {_article(wanted.group(1).lower())}" if wanted else _HELP.rstrip(".")
        return f"error: {setting}={value}: {problem[0].lower()}{problem[1:]}. {remedy}."
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and "HYDRA_FULL_ERROR" not in line and "hydra.cc" not in line]
    return f"error: {'; '.join(kept)}. {_HELP}"


def no_place(problem: OSError, place: object = None) -> str:
    """Why results cannot be written to `place`, by default to the file or folder that `problem` names."""
    where = place or problem.filename or "the folder of the results"
    return (
        f"{where}: results go there, and it cannot be written ({problem.strerror or problem}). "
        "Choose another folder with hydra.run.dir=..., for a sweep with hydra.sweep.dir=..."
    )


def _article(wanted: str) -> str:
    words = {"integer": "a whole number", "float": "a number", "boolean": "true or false"}
    return words.get(wanted, f"a value of type {wanted}")
