"""Opens the tracking store: SQLite by absolute path with its artifacts beside it, or a server.

mlflow costs more than a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.ask.schema import STORE_REMEDY, check_store
from harness.sinks import mlflow_process, mlflow_view
from harness.values.errors import UserError
from harness.values.redact import is_redacted, redact, reveal

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
# How MLflow and SQLite complain about tables that are not those of a whole store.
OF_SCHEMA = re.compile(r"schema|already exists|no such|duplicate")
# In characters; a folder's name may have 255 bytes.
LONGEST_NAME = 60
# What the UI opens with: the table of runs, sorted by what this harness is about.
UI_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "throughput_sps",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}


@dataclass(frozen=True)
class Store:
    """An open store. uri: redacted."""

    client: MlflowClient
    experiment_id: str
    uri: str


def open_store(uri: str | None, experiment: str) -> Store:
    """Connects; makes the SQLite file and the experiment where they are missing.

    Raises:
        UserError: the store cannot be opened or written; the message holds no credentials.
    """
    named = check_store(uri)
    real, shown = absolute(reveal(named)), redact(absolute(named))
    if is_redacted(real):
        raise UserError(
            "tracking.uri", shown, "its credentials are recorded nowhere, and are not known to this process",
            "Set MLFLOW_TRACKING_URI to the whole address, or give it to harness.log with --uri",
        )  # fmt: skip
    _quiet()
    with told(shown), _initialized(real):
        try:
            return _connect(real, shown, experiment)
        except UserError:
            raise
        except Exception as problem:
            if not OF_SCHEMA.search(str(problem)) or not _is_half_made(real):
                raise
            raise _half_made(real) from problem


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Turns whatever MLflow raises into a UserError that names the store and holds no credentials."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        reason = redact(str(problem)).strip().split("\n")[0] or type(problem).__name__
        raise UserError("tracking.uri", uri, f"the store cannot be used ({reason})", STORE_REMEDY) from None


def absolute(uri: str) -> str:
    """The URI of an SQLite file by absolute path: MLflow would follow the current directory."""
    return SQLITE + os.path.abspath(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else uri


def _connect(real: str, shown: str, experiment: str) -> Store:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=real)
    mlflow_process.end_runs_of_gone_processes(client)
    found = client.get_experiment_by_name(experiment)
    if found is not None and found.lifecycle_stage == "deleted":
        raise _deleted(shown, experiment, str(found.experiment_id))
    if found is not None:
        _tag_experiment(client, found.experiment_id, found.tags)
        return Store(client, found.experiment_id, shown)
    location = None
    if real.startswith(SQLITE):
        # Otherwise artifacts go to ./mlruns of whatever directory the user is in.
        folder = Path(real.removeprefix(SQLITE)).parent / "mlartifacts"
        location = (folder / folder_name(experiment)).as_uri()
    created = client.create_experiment(experiment, artifact_location=location)
    _tag_experiment(client, created, {})
    return Store(client, created, shown)


def folder_name(experiment: str) -> str:
    """One folder's name for an experiment, whatever that is called: no part of it leads anywhere else.

    What a folder cannot be called is replaced, and then a digest keeps different experiments apart.
    """
    plain = re.sub(r"[^\w .+=@-]", "-", experiment)[:LONGEST_NAME].strip(" ")
    if plain == experiment and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}"


def refuse_deleted(uri: str | None, experiment: str) -> None:
    """Raises UserError where an SQLite store has `experiment` as a deleted one: before anything is measured,
    and without MLflow. Whatever else is wrong with a store, or of a server, `open_store` says.
    """
    real = absolute(uri or "")
    if not real.startswith(SQLITE):
        return
    found = _ask(real, "select experiment_id, lifecycle_stage from experiments where name = ?", experiment)
    if found is not None and found[1] == "deleted":
        raise _deleted(real, experiment, str(found[0]))


def _deleted(uri: str, experiment: str, experiment_id: str) -> UserError:
    command = f"mlflow experiments restore --experiment-id {experiment_id}"
    return UserError(
        "tracking.experiment", experiment, "was deleted in this store, and its runs with it",
        f"Name another one, or restore it: MLFLOW_TRACKING_URI={shlex.quote(redact(uri))} {command}",
    )  # fmt: skip


def _ask(real: str, question: str, *values: str) -> tuple[Any, ...] | None:
    """The first row that an SQLite store answers; None where there is none, or no such store."""
    file = Path(real.removeprefix(SQLITE))
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            row: tuple[Any, ...] | None = connection.execute(question, values).fetchone()
            return row
    except sqlite3.Error:
        return None


def _is_half_made(real: str) -> bool:
    """Whether an SQLite file has tables, but no run: the making of a store was interrupted before it had one.

    Those made here are complete from the moment they have their name.
    """
    if not real.startswith(SQLITE):
        return False
    ours = _ask(real, "select 1 from sqlite_master where name in ('alembic_version', 'experiments')")
    return ours is not None and _ask(real, "select 1 from runs") is None


def _half_made(real: str) -> UserError:
    return UserError(
        "tracking.uri", real, "is a store whose making was interrupted; it holds no run",
        f"Remove {real.removeprefix(SQLITE)}, and it is made again",
    )  # fmt: skip


def _tag_experiment(client: MlflowClient, experiment_id: str, present: dict[str, str]) -> None:
    """What somebody has set already is left as it is."""
    for key, value in {**UI_TAGS, **mlflow_view.tags()}.items():
        if key not in present:
            client.set_experiment_tag(experiment_id, key, value)


@contextlib.contextmanager
def _initialized(uri: str) -> Iterator[None]:
    """Holds a file lock beside an SQLite store: processes that meet a fresh file would all migrate it."""
    if not uri.startswith(SQLITE):
        yield
        return
    file = Path(uri.removeprefix(SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_name(file.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists() or file.stat().st_size == 0:
            _make(file)
        yield


def _make(file: Path) -> None:
    """An empty store. That takes seconds, and may be interrupted: so it gets its name when it is whole."""
    from mlflow import MlflowClient

    making = file.with_name(file.name + ".making")
    parts = [making, making.with_name(making.name + "-journal")]
    for part in parts:  # of one that was killed
        part.unlink(missing_ok=True)
    try:
        MlflowClient(tracking_uri=f"{SQLITE}{making}").search_experiments(max_results=1)
        os.replace(making, file)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _quiet() -> None:
    """No telemetry, and a server that is down is reported in seconds instead of after minutes of retries."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
