"""Workloads that cannot be carried out are refused before a worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import a_spec

from harness.ask import workloads
from harness.ask.check import check
from harness.values.errors import UserError
from harness.values.spec import BatchSpec, HostSpec, LoadSpec, RunSpec, WorkloadSpec


def retrieval(**changes: Any) -> RunSpec:
    fields = {"workload": WorkloadSpec("retrieval"), "batch": BatchSpec(2, 8, "text", pad_to="longest")}
    return a_spec(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload": WorkloadSpec("chat")}, r"workload\.name='chat': is unknown"),
        (
            {"workload": WorkloadSpec("pairs", corpus="x.txt")},
            r"workload\.corpus=.*read by workload=pairs",
        ),
        ({"batch": BatchSpec(2, 8)}, r"batch\.tokens='random'"),
        ({"batch": BatchSpec(2, 8, "text")}, r"batch\.pad_to='seq_len'"),
        ({"load": LoadSpec("server")}, "load='server'"),
        ({"host": HostSpec(instances=2)}, "host.instances=2"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        workloads.check(retrieval(**changes))


def test_a_corpus_is_the_text_that_synthetic_data_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"batch\.tokens='text'.*no text"):
        check(retrieval())
    monkeypatch.chdir(tmp_path)
    found = check(retrieval(workload=WorkloadSpec("retrieval", "notes.txt")))
    assert found.workload.corpus == str(tmp_path / "notes.txt")


def test_embeddings_are_needed() -> None:
    workloads.check_task(retrieval(), None)
    workloads.check_task(retrieval(), "sentence-embedding")
    workloads.check_task(a_spec(), "encoder")
    with pytest.raises(UserError, match=r"needs embeddings.*task encoder"):
        workloads.check_task(retrieval(), "encoder")
