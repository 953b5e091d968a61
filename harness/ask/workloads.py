"""Whether a workload can be carried out as it was asked for."""

from __future__ import annotations

import dataclasses
import os

from harness.values.errors import UserError
from harness.values.spec import WORKLOADS, RunSpec


def resolve(spec: RunSpec) -> RunSpec:
    """The spec with an absolute path of the corpus."""
    corpus = spec.workload.corpus
    if corpus is None:
        return spec
    path = os.path.abspath(os.path.expanduser(corpus))
    return dataclasses.replace(spec, workload=dataclasses.replace(spec.workload, corpus=path))


def check(spec: RunSpec) -> None:
    """Raises UserError for a workload that is none, or that its other settings contradict."""
    workload = spec.workload
    if workload.name not in WORKLOADS:
        known = ", ".join(WORKLOADS)
        raise UserError("workload.name", workload.name, "is unknown", f"Choose one of {known}")
    if workload.name != "retrieval":
        if workload.corpus is not None:
            raise UserError(
                "workload.corpus", workload.corpus, f"is not read by workload={workload.name}",
                "Use workload=retrieval, or leave it out",
            )  # fmt: skip
        return
    if spec.batch.tokens != "text" or spec.batch.pad_to != "longest":
        setting, value = (
            ("batch.tokens", spec.batch.tokens)
            if spec.batch.tokens != "text"
            else ("batch.pad_to", spec.batch.pad_to)
        )
        raise UserError(
            setting, value, "is not what workload=retrieval embeds: passages of their own lengths",
            "Leave it out, or use batch.tokens=text and batch.pad_to=longest",
        )  # fmt: skip
    if spec.load.name != "offline":
        raise UserError(
            "load", spec.load.name, "is no way to embed a corpus, which workload=retrieval does",
            "Use load=offline, or workload=pairs",
        )  # fmt: skip
    if spec.host.instances > 1:
        raise UserError(
            "host.instances", spec.host.instances, "would each embed the whole corpus",
            "Use host.instances=1 with workload=retrieval",
        )  # fmt: skip


def check_task(spec: RunSpec, task: str | None) -> None:
    """Raises UserError where the checkpoint is known to give no embeddings; task: None where unknown."""
    if spec.workload.name == "retrieval" and task not in (None, "sentence-embedding"):
        raise UserError(
            "workload", "retrieval", f"needs embeddings, and model {spec.model.name} has task {task}",
            "Use model=minilm or another sentence-transformers checkpoint",
        )  # fmt: skip
