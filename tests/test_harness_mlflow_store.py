"""Where the store is: nothing outside of its folder, nothing half made, nothing deleted brought back."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from compare_reports import a_report, save
from mlflow import MlflowClient
from rich.console import Console

from harness import log
from harness.ask.schema import Tracking
from harness.run import job
from harness.sinks import console, mlflow_store, record
from harness.sinks.mlflow_store import folder_name, open_store, refuse_deleted
from harness.values.errors import UserError
from harness.values.plain import write_json

Cli = Callable[..., int]
OUTSIDE = ("../../../x", "..", ".", "/etc/x", "a/../../b", "~/x", "a\\..\\b", "%2e%2e/x")


def artifacts(uri: str) -> list[str]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        return [row[0] for row in connection.execute("select artifact_location from experiments")]


@pytest.mark.parametrize("name", ["bert-op", "bert-large-throughput", "my question 2"])
def test_an_ordinary_name_is_the_folder_s_name_too(name: str) -> None:
    assert folder_name(name) == name


def test_no_name_leads_out_of_the_store_s_folder_or_to_another_s() -> None:
    names = [*OUTSIDE, "a-b", "a/b", "a?b", "x" * 300, "é" * 200, ".hidden", "- "]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert "/" not in folder and not folder.startswith(".") and 0 < len(folder.encode()) < 255


def test_artifacts_of_a_name_with_a_path_in_it_lie_beside_the_store(store_uri: str, tmp_path: Path) -> None:
    record.log_run(save(a_report(), tmp_path / "run"), Tracking(uri=store_uri, experiment="../../../x"))
    written = set(tmp_path.rglob("report.json"))
    assert len(written) == 2 and not (tmp_path.parent / "x").exists()
    assert all(path.is_relative_to(tmp_path / "store/mlartifacts") or "run" in path.parts for path in written)
    assert all(".." not in location.split("/") for location in artifacts(store_uri))


@pytest.fixture
def deleted(store_uri: str) -> str:
    """A store whose experiment `question` was deleted."""
    store = open_store(store_uri, "question")
    store.client.delete_experiment(store.experiment_id)
    return store_uri


def stage(uri: str) -> str:
    return str(MlflowClient(tracking_uri=uri).get_experiment_by_name("question").lifecycle_stage)


def test_a_deleted_experiment_stays_deleted_and_the_remedy_works(deleted: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.experiment='question': was deleted") as caught:
        open_store(deleted, "question")
    assert stage(deleted) == "deleted"
    with pytest.raises(UserError, match=r"tracking\.experiment='question': was deleted"):
        refuse_deleted(deleted, "question")
    words = shlex.split(str(caught.value).partition("restore it: ")[2].rstrip("."))
    assert words[0] == f"MLFLOW_TRACKING_URI={deleted}"
    assert words[1:5] == ["mlflow", "experiments", "restore", "--experiment-id"]
    MlflowClient(tracking_uri=deleted).restore_experiment(words[5])
    assert open_store(deleted, "question").experiment_id == words[5]
    refuse_deleted(deleted, "question")


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_a_deleted_experiment_is_told_before_anything_is_measured(
    cli: Cli, deleted: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    mode: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(job, "launch", None)
    assert cli(*mode, f"tracking.uri={deleted}", "tracking.experiment=question") == 2
    said = "".join(capfd.readouterr())
    assert said.count("error: ") == 1 and "tracking.experiment='question': was deleted" in said
    assert (
        stage(deleted) == "deleted" and not (tmp_path / "run").exists() and not (tmp_path / "sweep").exists()
    )


def test_logging_later_does_not_bring_it_back_either(
    deleted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(a_report(), tmp_path / "run")
    write_json(folder / record.TRACKING_FILE, Tracking(uri=deleted, experiment="question"))
    assert log.main([str(folder)]) == 1
    assert "was deleted" in capsys.readouterr().err and stage(deleted) == "deleted"
    assert log.main([str(folder), "--experiment", "another"]) == 0


def test_what_is_no_store_yet_is_no_deleted_experiment(tmp_path: Path) -> None:
    refuse_deleted(f"sqlite:///{tmp_path}/new/mlflow.db", "question")
    refuse_deleted("http://127.0.0.1:9", "question")
    refuse_deleted(None, "question")
    (tmp_path / "notes.db").write_text("no database")
    refuse_deleted(f"sqlite:///{tmp_path}/notes.db", "question")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError])
def test_a_store_whose_making_is_interrupted_is_not_there_and_is_made_again(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    file = tmp_path / "new/mlflow.db"

    def half(tracking_uri: str) -> None:
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half")
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", half)
        with pytest.raises(KeyboardInterrupt if end is KeyboardInterrupt else UserError):
            open_store(f"sqlite:///{file}", "question")
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db.lock"]
    # What one that was killed has left does not matter either.
    making = file.with_name("mlflow.db.making")
    making.write_bytes(b"half")
    made = []

    class Whole:
        def __init__(self, tracking_uri: str) -> None:
            place = Path(tracking_uri.removeprefix("sqlite:///"))
            assert not place.exists()
            made.append(place)
            shutil.copy(migrated, place)

        def search_experiments(self, max_results: int) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", Whole)
        mlflow_store._make(file)
    assert made == [making] and not making.exists()
    assert open_store(f"sqlite:///{file}", "question").uri == f"sqlite:///{file}"


def test_a_sweep_that_is_interrupted_while_its_store_is_made_leaves_nothing_and_does_not_make_it_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def half(file: Path) -> None:
        asked.append(file)
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_store, "_make", half)
    file = tmp_path / "new/mlflow.db"
    assert cli("-m", "batch=1,4", f"tracking.uri=sqlite:///{file}") == 130
    assert asked == [file] and not file.exists() and not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("has_runs", [False, True])
def test_a_store_that_was_left_half_made_says_what_to_do(
    store_uri: str, tmp_path: Path, has_runs: bool
) -> None:
    """As versions before this one could leave it; one that holds runs is of another MLflow, and is kept."""
    if has_runs:
        record.log_run(save(a_report(), tmp_path / "run"), Tracking(uri=store_uri, experiment="question"))
    file = Path(store_uri.removeprefix("sqlite:///"))
    half = file.with_name("half.db")  # MLflow keeps a connection to the file of that name
    shutil.copy(file, half)
    with sqlite3.connect(half) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
        connection.execute("drop table webhooks")
    with pytest.raises(UserError) as caught:
        open_store(f"sqlite:///{half}", "question")
    assert ("Remove " in str(caught.value)) != has_runs
    assert ("making was interrupted" in str(caught.value)) != has_runs


@pytest.mark.parametrize(
    "place", ["/with space/mlflow.db", "/a$(b)/mlflow.db", "/it's/mlflow.db", "/plain/mlflow.db"]
)
def test_what_is_printed_can_be_pasted_into_a_shell(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite://{place}"
    console.next_steps(Console(), tmp_path, uri)
    command = capsys.readouterr().out.partition("MLflow: ")[2].strip()
    assert shlex.split(command) == ["mlflow", "ui", "--backend-store-uri", uri]
    assert ("'" in command) == (place != "/plain/mlflow.db")
    job.not_logged(Console(), "why", tmp_path / place[1:])
    command = capsys.readouterr().out.partition("log them later with: ")[2].strip()
    assert shlex.split(command)[:3] == ["python", "-m", "harness.log"] and len(shlex.split(command)) == 4


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b"])
def test_what_is_no_name_is_refused(cli: Cli, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli(f'tracking.experiment="{name}"') == 2
    assert "tracking.experiment=" in "".join(capfd.readouterr())
