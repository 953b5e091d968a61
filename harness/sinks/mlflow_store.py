"""Opens the tracking store: SQLite by absolute path with its artifacts beside it, or a server.

mlflow costs more than a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.schema import STORE_REMEDY, check_store
from harness.secrets import is_redacted, redact, reveal
from harness.sinks import mlflow_process, mlflow_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
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
        return _connect(real, shown, experiment)


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Turns whatever MLflow raises into a UserError that names the store and holds no credentials."""
    try:
        yield
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
        client.restore_experiment(found.experiment_id)
    if found is not None:
        _tag_experiment(client, found.experiment_id, found.tags)
        return Store(client, found.experiment_id, shown)
    location = None
    if real.startswith(SQLITE):
        # Otherwise artifacts go to ./mlruns of whatever directory the user is in.
        location = (Path(real.removeprefix(SQLITE)).parent / "mlartifacts" / experiment).as_uri()
    created = client.create_experiment(experiment, artifact_location=location)
    _tag_experiment(client, created, {})
    return Store(client, created, shown)


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
        yield


def _quiet() -> None:
    """No telemetry, and a server that is down is reported in seconds instead of after minutes of retries."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
