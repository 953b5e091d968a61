"""What a target is looked for on, and what a run says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from test_worker_run import pairs_of, start
from worker_tools import PAIRS, make_checkpoint, path_model, run_spec

from harness.sinks import table
from harness.values.errors import UserError
from harness.values.report import Report
from harness.values.spec import BackendSpec, MeasureSpec, RunSpec
from harness.worker import data, weights
from harness.worker.goal import goal_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def spec_of(checkpoint: Path, folder: Path, **target: float) -> RunSpec:
    return run_spec(
        path_model(checkpoint), data=pairs_of(folder), backend=BackendSpec("op", "jit"),
        precision="bf16_qint8", target=target, measure=MeasureSpec(throughput=False),
    )  # fmt: skip


def test_the_texts_are_those_of_the_data(checkpoint: Path, tmp_path: Path) -> None:
    spec = spec_of(checkpoint, tmp_path, flips=0.5)
    loaded, pairs = weights.load(spec.model, 0), data.read_pairs(spec.data)
    found = goal_of(spec, loaded, pairs)
    assert found is not None and found.bounds == {"flips": 0.5}
    assert [tuple(text) for text in found.texts] == [(first, second) for first, second, _ in PAIRS]
    assert goal_of(dataclasses.replace(spec, target={}), loaded, pairs) is None


@pytest.mark.parametrize("lacking", ["text", "tokenizer", "trained weights"])
def test_what_is_lacking_is_told(checkpoint: Path, tmp_path: Path, lacking: str) -> None:
    spec = spec_of(checkpoint, tmp_path, cosine_mean=0.9)
    loaded = weights.load(spec.model, 0)
    pairs = None if lacking == "text" else data.read_pairs(spec.data)
    if lacking == "tokenizer":
        loaded = dataclasses.replace(loaded, tokenizer=None)
    if lacking == "trained weights":
        loaded = dataclasses.replace(loaded, source="random")
    with pytest.raises(UserError, match=rf"precision.target='cosine_mean 0.9': .* there is no {lacking}"):
        goal_of(spec, loaded, pairs)


def test_a_run_says_what_the_op_kept_or_how_far_it_came(checkpoint: Path, tmp_path: Path) -> None:
    assert start(spec_of(checkpoint, tmp_path, cosine_min=0.9), tmp_path / "easy").returncode == 0
    report = Report.read(tmp_path / "easy")
    (note,) = [note for note in table.notes([report]) if "precision.target" in note]
    assert f"keeps nothing for precision.target on {len(PAIRS)} texts: cosine_min 0.99" in note
    result = start(spec_of(checkpoint, tmp_path, cosine_min=1.0), tmp_path / "out of reach")
    report = Report.read(tmp_path / "out of reach")
    assert result.returncode != 0 and report.failure is not None and report.wrong_input
    assert "precision.target='cosine_min 1'" in report.failure.message
    assert "out of reach" in report.failure.message and "Ask for less" in report.failure.message
