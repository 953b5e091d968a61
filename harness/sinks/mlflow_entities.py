"""What MLflow knows of a run as things of their own: the dataset, the model, the table of predictions.

Each function looks first for what is already there: repeating it is harmless.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.sinks import mlflow_values as values
from harness.sinks.mlflow_store import Store
from harness.values.plain import read_json
from harness.values.redact import redact
from harness.values.report import PREDICTIONS_FILE, Report

if TYPE_CHECKING:
    from mlflow.entities import Dataset

MODEL_TYPE = "encoder"
# What a model is: beginnings of names of params.
MODEL_PARAMS = ("model", "precision", "backend", "graph", "skip_padding", "seed")
TABLE_FILE = "predictions_table.json"
WORST_FILE = "worst_texts.json"
# MLflow takes no longer digest.
DIGEST_LENGTH = 36


def log_dataset(store: Store, run_id: str, report: Report, folder: Path) -> Dataset | None:
    """Records which samples were scored as the run's input; None where none were."""
    dataset = _dataset(report, folder)
    if dataset is None:
        return None
    from mlflow.entities import DatasetInput, InputTag

    known = {
        (item.dataset.name, item.dataset.digest)
        for item in store.client.get_run(run_id).inputs.dataset_inputs
    }
    if (dataset.name, dataset.digest) not in known:
        context = InputTag("mlflow.data.context", "evaluation")
        store.client.log_inputs(run_id, [DatasetInput(dataset, [context])])
    return dataset


def log_model(store: Store, run_id: str, report: Report) -> str:
    """The model entity of a run: this model in this precision on this backend. Its weights are not uploaded.

    The Models tab shows one line for each, with the metrics that `model_id=` links to it.
    """
    found = store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'")
    if found and found[0].status == "READY":
        model_id = str(found[0].model_id)
    else:
        for half in found:
            store.client.delete_logged_model(half.model_id)
        model_id = _create_model(store, run_id, report)
    outputs = store.client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        from mlflow.entities import LoggedModelOutput

        store.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return model_id


def delete_models(store: Store, run_id: str) -> None:
    """Deletes the model entities of a run that another one takes the place of."""
    for model in store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"):
        store.client.delete_logged_model(model.model_id)


def log_predictions(store: Store, run_id: str, folder: Path) -> None:
    """The decisions on each pair as a table that the UI can filter and compare between runs."""
    if not (folder / PREDICTIONS_FILE).is_file():
        return
    rows: list[dict[str, Any]] = read_json(folder / PREDICTIONS_FILE)
    # log_table appends to a table of the same name.
    if not rows or any(item.path == TABLE_FILE for item in store.client.list_artifacts(run_id)):
        return
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    store.client.log_table(run_id, columns, TABLE_FILE)


def log_worst_texts(store: Store, run_id: str, report: Report) -> None:
    """The texts with the largest errors as a table."""
    worst = () if report.accuracy is None else report.accuracy.worst
    if not worst or any(item.path == WORST_FILE for item in store.client.list_artifacts(run_id)):
        return
    columns = {
        "error": [one.error for one in worst],
        "text": [redact(" / ".join(one.texts)) for one in worst],
    }
    store.client.log_table(run_id, columns, WORST_FILE)


def _dataset(report: Report, folder: Path) -> Dataset | None:
    if report.accuracy is None or report.accuracy.data_digest is None:
        return None
    import mlflow.data
    from mlflow.entities import Dataset

    file = folder / PREDICTIONS_FILE
    rows = read_json(file) if file.is_file() else []
    labelled = bool(rows) and rows[0]["label"] is not None
    labels = np.array([row["label"] for row in rows]) if labelled else None
    pairs = np.arange(report.accuracy.samples)
    made = mlflow.data.from_numpy(
        {"pair": pairs},
        source=_source(report),
        targets=labels,
        name=report.spec.data.name,
        digest=report.accuracy.data_digest[:DIGEST_LENGTH],
    )
    return Dataset(**made.to_dict())


def _source(report: Report) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource

    data = report.spec.data
    if data.hub_id is not None and data.path is None:
        return HuggingFaceDatasetSource(path=data.hub_id, config_name=data.hub_config, split=data.hub_split)
    return CodeDatasetSource({"file": data.path or data.shipped, "samples": str(data.samples)})


def _create_model(store: Store, run_id: str, report: Report) -> str:
    """What mlflow.create_external_model does, but on the store's own client: that function takes its store
    from the process's environment, where a measured process could find it."""
    from mlflow.models.model import MLMODEL_FILE_NAME
    from mlflow.models.utils import get_external_mlflow_model_spec
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    chosen, observed = values.params(report), values.tags(report)
    name = re.sub(r"[/:.%\"']", "-", f"{report.spec.model.name} {report.spec.contender}")
    model = store.client.create_logged_model(
        store.experiment_id,
        name=name,
        source_run_id=run_id,
        tags={
            MLFLOW_MODEL_IS_EXTERNAL: "true",
            **{key: observed[key] for key in ("contender", "isa", "weights_source") if key in observed},
        },
        params={key: value for key, value in chosen.items() if key.startswith(MODEL_PARAMS)},
        model_type=MODEL_TYPE,
    )
    with tempfile.TemporaryDirectory() as folder:
        get_external_mlflow_model_spec(model).save(str(Path(folder) / MLMODEL_FILE_NAME))
        store.client.log_model_artifacts(model.model_id, folder)
    store.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)
