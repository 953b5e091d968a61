import dataclasses
import errno
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_fixtures import a_spec
from mlflow import MlflowClient
from mlflow.entities import Run

from harness import log
from harness.ask.schema import Tracking
from harness.sinks import files, mlflow_process, mlflow_view, record
from harness.sinks.mlflow_store import open_store
from harness.values.errors import UserError
from harness.values.plain import write_json
from harness.values.report import Accuracy, Failure, Identity, Interval, Memory, Phases, Report, Timing
from harness.values.spec import BackendSpec


def a_report(backend: str = "op", sps: float = 100.0) -> Report:
    return Report(
        a_spec(backend=BackendSpec(backend)),
        "finished",
        identity=Identity("abc123", False, {"isa": "avx2"}, "avx2", "a CPU", "2.13", "5.2", threads=2),
        phases=Phases(1.0, 2.0, 3.0, 4.0),
        timing=Timing(
            9, 1.0, 2, 8, {"p50": 20.0, "mean": 21.0}, sps, 16.0, tokens_per_s=800.0, tflops=0.5, noisy=True
        ),
        accuracy=Accuracy(
            100,
            0.8,
            Interval(0.7, 0.9),
            0.85,
            agreement=0.99,
            logit_max_abs=0.01,
            cosine_min=0.999,
            data_digest="d",
        ),
        memory=Memory(100.0, 50.0, 40.0),
        started_at="2030-01-02T03:04:05+00:00",
    )


def saved(report: Report, folder: Path) -> Path:
    report.write(folder)
    (folder / ".hydra").mkdir()
    (folder / ".hydra/overrides.yaml").write_text("[]\n")
    pairs = [{"index": index, "label": index % 2, "decision": 1, "score": 0.7} for index in range(4)]
    (folder / "predictions.json").write_text(json.dumps(pairs))
    np.savez(folder / "samples.npz", latency_ms=np.linspace(10, 30, 50))
    files.write_run(report, folder)
    return folder


def all_runs(uri: str, experiment: str = "question") -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id])


def a_sweep(folder: Path, uri: str, reports: list[Report]) -> Path:
    record.Sweep("an-id", "shootout", Tracking(uri=uri, experiment="question"), complete=True).write(folder)
    for index, report in enumerate(reports):
        saved(report, folder / str(index))
    return folder


def test_a_run_is_logged_with_everything_of_the_contract(store_uri: str, tmp_path: Path) -> None:
    record.log_run(saved(a_report(), tmp_path / "run"), Tracking(uri=store_uri, experiment="question"))
    client, (run,) = all_runs(store_uri)
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1893553445000
    assert {"model", "precision", "backend", "graph", "batch_size", "seq_len", "run_time", "threads", "data",
            "samples"} <= set(run.data.params)  # fmt: skip
    assert {"git_commit", "git_dirty", "op_build", "isa", "cpu", "torch", "transformers", "noisy"} <= set(
        run.data.tags
    )
    metrics = run.data.metrics
    assert metrics["throughput_sps"] == 100 and metrics["latency_ms/p50"] == 20 and metrics["accuracy"] == 0.8
    expected = "tokens_per_s tflops load_s pack_s cold_ms memory_mb/peak memory_mb/weights f1 agreement"
    assert {*expected.split(), "error/logit_max_abs", "error/cosine_min"} <= set(metrics)
    assert not {"latency_ms/p99", "peak_fraction", "speedup"} & set(metrics), "not measured"
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    files_of_run = "report.json report.md samples.npz predictions.json latency.png config.json .hydra"
    assert artifacts == {*files_of_run.split(), "predictions_table.json"}
    assert run.data.tags["mlflow.runName"] == "op-fp32 tiny 2x8"


def test_artifacts_are_beside_the_database_and_the_experiment_says_what_to_sort_by(
    store_uri: str, tmp_path: Path
) -> None:
    record.log_run(saved(a_report(), tmp_path / "run"), Tracking(uri=store_uri, experiment="question"))
    experiment = MlflowClient(tracking_uri=store_uri).get_experiment_by_name("question")
    assert experiment.artifact_location == (tmp_path / "store/mlartifacts/question").as_uri()
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "throughput_sps"
    assert list((tmp_path / "store/mlartifacts").glob("**/report.json"))


def test_a_failed_run_is_logged_as_failed_with_its_reason(store_uri: str, tmp_path: Path) -> None:
    report = dataclasses.replace(
        a_report(), status="failed", timing=None, failure=Failure("killed", "By SIGKILL.")
    )
    record.log_run(saved(report, tmp_path / "run"), Tracking(uri=store_uri, experiment="question"))
    _, (run,) = all_runs(store_uri)
    assert run.info.status == "FAILED" and run.data.tags["failure"] == "killed: By SIGKILL."
    assert run.data.metrics["accuracy"] == 0.8


def test_a_sweep_is_a_parent_with_children_table_and_chart(store_uri: str, tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf", 50), a_report("op", 150)])
    assert log.main([str(folder)]) == 0
    client, runs = all_runs(store_uri)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 2 and parent.info.status == "FINISHED"
    speedups = {run.data.params["backend"]: run.data.metrics["speedup"] for run in children}
    assert speedups == {"hf": 1.0, "op": 3.0}
    verdicts = {run.data.params["backend"]: run.data.tags.get("verdict") for run in children}
    assert verdicts == {"hf": None, "op": "no difference detected"}, "the fixture saves equal samples"
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.md", "sweep.csv", "sweep.html", "sweep.png"} <= artifacts
    assert parent.data.tags["mlflow.runName"] == "shootout: 2 jobs, tiny"
    assert (
        parent.data.tags["best"] == "op-fp32 tiny 2x8"
        and "| 3.00x |" in parent.data.tags["mlflow.note.content"]
    )


def test_logging_again_changes_nothing(store_uri: str, tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf", 50), a_report("op", 150)])

    def state() -> list[tuple[str, dict[str, float], str]]:
        client, runs = all_runs(store_uri)
        series = {run.info.run_id: client.get_metric_history(run.info.run_id, "speedup") for run in runs}
        assert max(len(points) for points in series.values()) == 1
        return sorted((run.info.run_id, dict(run.data.metrics), run.info.status) for run in runs)

    assert log.main([str(folder)]) == 0
    first = state()
    assert log.main([str(folder)]) == 0
    assert state() == first


def test_a_failed_job_fails_the_parent_but_the_others_are_there(store_uri: str, tmp_path: Path) -> None:
    bad = dataclasses.replace(a_report("op"), status="failed", failure=Failure("crashed", "x"), timing=None)
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf"), bad])
    assert log.main([str(folder)]) == 0
    _, runs = all_runs(store_uri)
    assert sorted(run.info.status for run in runs) == ["FAILED", "FAILED", "FINISHED"]


STEPS = ("create_logged_model", "finalize_logged_model", "log_outputs", "log_batch", "log_table", "set_tag")


@pytest.mark.parametrize("step", ["create_logged_model", "log_outputs", "set_tag"])
def test_a_logging_that_breaks_off_is_completed_in_the_same_run(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """As when the store dies: from one step on every request fails, also that which would end the run."""
    tracking = Tracking(uri=store_uri, experiment="question")
    folder = saved(a_report(), tmp_path / "run")
    record.log_run(saved(a_report(sps=1.0), tmp_path / "other"), tracking)
    with monkeypatch.context() as patch:
        for name in (*STEPS[STEPS.index(step) :], "set_terminated"):
            patch.setattr(MlflowClient, name, lambda *arguments, **options: 1 / 0)
        with pytest.raises(UserError, match=r"tracking\.uri"):
            record.log_run(folder, tracking)
    client, runs = all_runs(store_uri)
    (half,) = [run for run in runs if run.info.status == "RUNNING"]
    record.log_run(folder, tracking)
    record.log_run(folder, tracking)
    client, runs = all_runs(store_uri)
    assert len(runs) == 2 and {run.info.status for run in runs} == {"FINISHED"}
    (run,) = [run for run in runs if run.info.run_id == half.info.run_id]
    other = next(one for one in runs if one is not run)
    assert set(run.data.metrics) == set(other.data.metrics) and run.data.params == other.data.params
    assert {i.path for i in client.list_artifacts(run.info.run_id)} == {
        i.path for i in client.list_artifacts(other.info.run_id)
    }
    assert len(run.inputs.dataset_inputs) == len(run.outputs.model_outputs) == 1
    tables = [path.read_text() for path in (tmp_path / "store").glob("**/predictions_table.json")]
    assert [len(json.loads(text)["data"]) for text in tables] == [4, 4]
    history = client.get_metric_history(run.info.run_id, "throughput_sps")
    assert len(history) == 1
    models = client.search_logged_models([run.info.experiment_id])
    assert [str(model.status) for model in models] == ["READY"] * 2


def test_the_models_are_linked_with_speed_and_with_quality_on_the_dataset(
    store_uri: str, tmp_path: Path
) -> None:
    bf16 = a_report("op", 150)
    bf16 = dataclasses.replace(bf16, spec=dataclasses.replace(bf16.spec, precision="bf16"))
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf", 50), bf16])
    assert log.main([str(folder)]) == 0
    client, runs = all_runs(store_uri)
    models = client.search_logged_models([runs[0].info.experiment_id])
    found = {model.params["precision"]: model for model in models}
    assert {model.name for model in models} == {"tiny hf-jit-fp32", "tiny op-bf16"}
    metrics = {metric.key: metric for metric in found["bf16"].metrics}
    assert metrics["throughput_sps"].value == 150 and metrics["speedup"].value == 3.0
    assert metrics["accuracy"].dataset_name == "synthetic" and metrics["accuracy"].dataset_digest == "d"
    run = client.get_run(found["bf16"].source_run_id)
    assert run.data.params["precision"] == "bf16"
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("synthetic", "d")
    assert {(tag.key, tag.value) for tag in used.tags} == {("mlflow.data.context", "evaluation")}


def test_a_sweep_that_was_killed_is_failed_and_says_so(store_uri: str, tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf", 50)])
    dataclasses.replace(record.Sweep.read(folder), complete=None).write(folder)
    assert log.main([str(folder)]) == 0
    _, runs = all_runs(store_uri)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FAILED" and parent.data.tags["failure"].startswith("killed")
    record.end_sweep(folder, complete=True)
    assert log.main([str(folder)]) == 0
    _, runs = all_runs(store_uri)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED" and "failure" not in parent.data.tags


@pytest.mark.parametrize(
    "uri", [None, "", "nonsense", "sqlite:////proc/no/mlflow.db", "ftp://u:secret@host/x"]
)
def test_a_store_that_cannot_be_used_is_named_without_its_credentials(uri: str | None) -> None:
    with pytest.raises(UserError) as caught:
        open_store(uri, "question")
    assert caught.value.setting == "tracking.uri"
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("not a database, but somebody's notes")
    with pytest.raises(UserError, match=r"tracking\.uri"):
        open_store(f"sqlite:///{file}", "question")
    assert file.read_text() == "not a database, but somebody's notes"


def test_a_relative_store_is_one_file_from_any_directory(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///store/mlflow.db", "question")
    assert store.uri == store_uri
    rows = sqlite3.connect(tmp_path / "store/mlflow.db").execute("select artifact_location from experiments")
    assert (f"{(tmp_path / 'store').as_uri()}/mlartifacts/question",) in rows.fetchall()
    assert not (tmp_path / "mlruns").exists()


def test_a_folder_without_results_is_a_wrong_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert log.main([str(tmp_path)]) == 2
    assert "holds no run and no sweep" in capsys.readouterr().err


def test_a_job_that_was_logged_alone_comes_below_the_sweep_later(store_uri: str, tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf", 50), a_report("op", 150)])
    for index in (0, 1):
        tracking = Tracking(uri=store_uri, experiment="question")
        write_json(folder / str(index) / record.TRACKING_FILE, tracking)
    assert log.main([str(folder / "1")]) == 0
    _, (alone,) = all_runs(store_uri)
    assert "mlflow.parentRunId" not in alone.data.tags
    assert log.main([str(folder)]) == 0
    _, runs = all_runs(store_uri)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3 and parent.info.run_id != alone.info.run_id
    assert log.main([str(folder / "1")]) == 0
    client, runs = all_runs(store_uri)
    assert client.get_run(alone.info.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_resumed_run_is_running_only_under_the_tag_of_the_process_that_resumes_it(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise whoever opens the store in between would end it as that of a process that is gone."""
    folder = saved(a_report(), tmp_path / "run")
    tracking = Tracking(uri=store_uri, experiment="question")
    gone = {"process": "pid=1 boot=before", "host": "here"}
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_process, "own_tags", lambda: gone)
        patch.setattr(MlflowClient, "log_batch", lambda *arguments, **options: 1 / 0)
        with pytest.raises(UserError):
            record.log_run(folder, tracking)
    client, (run,) = all_runs(store_uri)
    assert run.info.status == "FAILED" and run.data.tags["process"] == gone["process"]
    seen, update = [], MlflowClient.update_run

    def observed(self: MlflowClient, run_id: str, status: str) -> None:
        seen.append(client.get_run(run_id).data.tags["process"])
        update(self, run_id, status)

    monkeypatch.setattr(MlflowClient, "update_run", observed)
    record.log_run(folder, tracking)
    assert seen == [mlflow_process.own_tags()["process"]]


def a_run(folder: Path, uri: str) -> Path:
    write_json(folder / record.TRACKING_FILE, Tracking(uri=uri, experiment="question"))
    return saved(a_report(), folder)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("report.json", None, "has no report.json"),
        ("report.json", '{"colour": 1}', "report.json cannot be read (Report has no field colour)"),
        ("report.json", "{", "report.json cannot be read"),
        ("tracking.json", '{"colour": 1}', "tracking.json cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_logged_is_named_and_not_the_store(
    store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str | None, told: str
) -> None:
    folder = a_run(tmp_path / "run", store_uri)
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    assert log.main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"folder='{folder}'" in said and told in said and "tracking.uri" not in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_an_archive_that_nobody_can_write(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:  # fmt: skip
    """Its runs are logged, without the lock; of a sweep the folder is named that has to be writable."""
    run = a_run(tmp_path / "run", store_uri)
    sweep = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf")])
    opened = Path.open

    def refused(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "+" in mode and self.is_relative_to(tmp_path / "run"):
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, mode, *arguments, **options)

    def unwritable(path: Path, text: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(files, "write_text", unwritable)
    assert log.main([str(run)]) == 0
    capsys.readouterr()
    assert log.main([str(sweep)]) == 2
    said = capsys.readouterr().err
    assert f"folder='{sweep}'" in said and os.strerror(number) in said and "tracking.uri" not in said


def test_the_saved_view_names_columns_that_runs_have(store_uri: str, tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "sweep", store_uri, [a_report("hf", 50), a_report("op", 150)])
    assert log.main([str(folder)]) == 0
    client, runs = all_runs(store_uri)
    experiment = client.get_experiment(runs[0].info.experiment_id)
    view = json.loads(experiment.tags["mlflow.sharedViewState.compare"])
    data = [run.data for run in runs]
    for column in [*view["selectedColumns"], view["orderByKey"]]:
        kind, name = column.replace("`", "").split(".", 1)
        assert any(name in getattr(of_run, kind) for of_run in data), column
    assert (
        mlflow_view.address("http://host/", "3")
        == "http://host/#/experiments/3/runs?viewStateShareKey=compare"
    )
