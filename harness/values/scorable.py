"""Whether a job that asks for nothing but accuracy can have any: for the parent, and for the worker, which
knows where the weights came from.
"""

from __future__ import annotations

from harness.values.errors import UserError
from harness.values.spec import SCORED_TASKS, RunSpec


def refuse_unscorable(spec: RunSpec, source: str, task: str | None, why_random: str) -> None:
    """Raises UserError where accuracy is all that is asked for, and there can be none.

    source, task: of the weights, as far as they are known. why_random: a clause, for `random` ones.
    """
    if spec.measure.throughput:
        return
    labelled = any((spec.data.path, spec.data.hub_id, spec.data.shipped))
    problem, remedy = None, "Measure throughput too, with measure=all"
    if source == "random":
        problem = f"there is nothing to score: {why_random}"
        remedy = (
            "Connect to the hub, or set model.path=<folder made by save_pretrained>; or measure=throughput"
        )
    elif labelled and task not in (None, *SCORED_TASKS):
        problem = f"there is nothing to score: model {spec.model.name} has no task head (task {task})"
        remedy = "Name a checkpoint with one; data=synthetic measures the error to Hugging Face alone"
    if problem is not None:
        raise UserError("measure", "accuracy", problem, remedy)
