"""A saved view of the runs' table in MLflow's UI: columns and order that compare the runs of this harness.

The UI keeps the views that people share as tags of the experiment, and opens one by its key:
`<server>/#/experiments/<id>/runs?viewStateShareKey=compare`.
"""

from __future__ import annotations

import json

KEY = "compare"
COLUMNS = (
    "params.`model`", "params.`precision`", "params.`backend`", "params.`batch_size`", "params.`seq_len`",
    "metrics.`throughput_sps`", "metrics.`latency_ms/p50`", "metrics.`calls`", "metrics.`speedup`",
    "tags.`verdict`", "tags.`noisy`", "metrics.`accuracy`", "metrics.`agreement`",
    "metrics.`error/cosine_min`",
)  # fmt: skip
# Fastest first. MLflow's own names, as its UI writes them.
_STATE = {
    "searchFilter": "",
    "orderByKey": "metrics.`throughput_sps`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "selectedColumns": COLUMNS,
    "runListHidden": False,
}


def tags() -> dict[str, str]:
    """The experiment's tag that holds the view."""
    return {f"mlflow.sharedViewState.{KEY}": json.dumps(_STATE)}


def address(server: str, experiment_id: str) -> str:
    """Where a browser finds the view. server: `http://host:port`."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={KEY}"
