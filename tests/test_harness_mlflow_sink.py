"""Runs and what belongs to them in a store: each once, however often it is logged."""

from __future__ import annotations

from pathlib import Path

from harness_fixtures import a_spec

from harness.sinks import mlflow_entities, mlflow_sink
from harness.sinks.mlflow_store import open_store
from harness.values.plain import write_json
from harness.values.report import Accuracy, Report, Timing

TIMING = Timing(9, 1.0, 2, 8, {"p50": 10.0}, 200.0, 16.0)


def test_a_sweep_has_one_parent_and_a_job_one_run_below_it(store_uri: str, tmp_path: Path) -> None:
    store = open_store(store_uri, "question")
    parent = mlflow_sink.open_sweep(store, "an-id", "sweep")
    assert mlflow_sink.open_sweep(store, "an-id", "another name") == parent
    report = Report(a_spec(), "finished", timing=TIMING)
    report.write(tmp_path)
    alone = mlflow_sink.log_run(store, report, tmp_path)
    assert mlflow_sink.log_run(store, report, tmp_path, parent) == alone
    run = store.client.get_run(alone)
    assert run.data.tags[mlflow_sink.PARENT_TAG] == parent and run.info.status == "FINISHED"
    assert run.data.metrics["throughput_sps"] == 200.0


def test_model_dataset_and_table_of_a_run_are_made_once(store_uri: str, tmp_path: Path) -> None:
    store = open_store(store_uri, "question")
    report = Report(a_spec(), "finished", accuracy=Accuracy(4, 0.5, data_digest="d" * 64))
    write_json(tmp_path / "predictions.json", [{"index": i, "label": i % 2, "decision": 1} for i in range(4)])
    run_id = store.client.create_run(store.experiment_id).info.run_id
    models = set()
    for _ in range(2):
        dataset = mlflow_entities.log_dataset(store, run_id, report, tmp_path)
        models.add(mlflow_entities.log_model(store, run_id, report))
        mlflow_entities.log_predictions(store, run_id, tmp_path)
    assert dataset is not None and dataset.digest == "d" * mlflow_entities.DIGEST_LENGTH
    run = store.client.get_run(run_id)
    assert len(run.inputs.dataset_inputs) == 1 and len(run.outputs.model_outputs) == 1
    (model,) = [store.client.get_logged_model(model_id) for model_id in models]
    assert model.params["precision"] == "fp32" and "data" not in model.params
    assert mlflow_entities.TABLE_FILE in {item.path for item in store.client.list_artifacts(run_id)}


def test_nothing_scored_is_no_dataset(store_uri: str, tmp_path: Path) -> None:
    store = open_store(store_uri, "question")
    assert mlflow_entities.log_dataset(store, "no run is asked for", Report(a_spec()), tmp_path) is None
