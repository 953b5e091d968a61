"""A search by hand, and one by a tiny model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from test_harness_end_to_end import harness
from worker_tools import make_checkpoint, path_model, run_spec

from harness.sinks import load_notes, mlflow_values
from harness.values.corpus import Corpus
from harness.values.errors import UserError
from harness.values.quality import Retrieval
from harness.values.report import Report, Timing
from harness.values.spec import BatchSpec, RunSpec, WorkloadSpec
from harness.worker import weights
from harness.worker.workloads import retrieval

# Directions 5 degrees apart; each query lies 1 degree beside its passage.
ANGLES = np.radians(np.arange(20) * 5.0)
PASSAGES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
ASKED = np.radians(np.array([1.0, 51.0]))
QUERIES = np.stack([np.cos(ASKED), np.sin(ASKED)], axis=1).astype(np.float32)
CORPUS = Corpus(tuple(f"p{n}" for n in range(20)), ("q0", "q10"), ((0,), (10,)))


def test_an_equal_search_finds_the_same() -> None:
    rows = np.concatenate([PASSAGES, QUERIES])
    found = retrieval.searched(rows, rows.copy(), CORPUS)
    assert (found.overlap1, found.overlap10, found.recall1, found.reference_recall10) == (1, 1, 1, 1)


def test_a_query_that_moved_finds_others() -> None:
    rows = np.concatenate([PASSAGES, QUERIES])
    moved = rows.copy()
    moved[20] = PASSAGES[1]
    found = retrieval.searched(moved, rows, CORPUS)
    assert (found.overlap1, found.recall1, found.reference_recall1) == (0.5, 0.5, 1.0)
    assert found.recall10 == 1.0


def test_too_few_passages_and_no_queries_say_nothing() -> None:
    rows = np.concatenate([PASSAGES[:11], QUERIES])
    few = retrieval.searched(rows, rows, Corpus(CORPUS.passages[:11], CORPUS.queries, CORPUS.right))
    assert few.overlap1 == 1.0 and few.overlap10 is None and few.recall10 is None
    none = retrieval.searched(PASSAGES, PASSAGES, Corpus(CORPUS.passages))
    assert none == Retrieval(20)


def embedding_spec(tmp_path: Path, labels: int | None = None) -> RunSpec:
    folder = make_checkpoint(tmp_path / "tiny", labels=labels)
    file = tmp_path / "corpus.txt"
    file.write_text("a cat\nthe dog sat on the mat.\na dog ran.\n")
    return run_spec(
        path_model(folder, task="sentence-embedding" if labels is None else "auto"),
        workload=WorkloadSpec("retrieval", str(file)),
        batch=BatchSpec(2, 16, "text", pad_to="longest"),
    )


def test_batches_go_from_the_longest_passage_to_the_shortest(tmp_path: Path) -> None:
    spec = embedding_spec(tmp_path)
    loaded = weights.load(spec.model, spec.seed)
    corpus = retrieval.corpus_of(spec, loaded, None)
    assert corpus is not None
    first, last = retrieval.batches(loaded, corpus, spec)
    assert first.lengths() == sorted(first.lengths(), reverse=True)
    assert last.lengths()[1] == first.lengths()[0], "the last batch is filled up with the first passages"
    assert retrieval.tokenize_s(loaded, corpus, spec) > 0


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    spec = embedding_spec(tmp_path, labels=2)
    with pytest.raises(UserError, match=r"needs embeddings.*paraphrase-classification"):
        retrieval.corpus_of(spec, weights.load(spec.model, spec.seed), None)


def test_without_any_text_there_is_nothing_to_search(tmp_path: Path) -> None:
    spec = dataclasses.replace(embedding_spec(tmp_path), workload=WorkloadSpec("retrieval"))
    with pytest.raises(UserError, match="nothing to search"):
        retrieval.corpus_of(spec, weights.load(spec.model, spec.seed), None)


def test_passages_per_second_are_with_tokenizing() -> None:
    assert Retrieval(100, tokenize_s=1.0).passages_per_s(100.0, 5) == pytest.approx(50.0)
    assert Retrieval(100, batches=6, tokenize_s=1.0).passages_per_s(100.0, 5) is None
    assert Retrieval(100).passages_per_s(100.0, 5) is None


def test_a_table_says_when_only_the_longest_were_timed(tmp_path: Path) -> None:
    timing = Timing(3, 1.0, 2, 16, {"p50": 1.0}, 10.0, 5.0)
    report = Report(embedding_spec(tmp_path), timing=timing, retrieval=Retrieval(20, batches=10))
    assert "only the 3 longest of 10 batches" in load_notes.retrieval(report, "x")[1]
    whole = dataclasses.replace(report, timing=dataclasses.replace(timing, count=10))
    assert len(load_notes.retrieval(whole, "x")) == 1
    assert "retrieval/passages_per_s" not in mlflow_values.speed_metrics(whole)


def test_one_run(store_uri: str, tmp_path: Path) -> None:
    done = harness(
        "workload=retrieval", f"tracking.uri={store_uri}", f"hydra.run.dir={tmp_path}/run",
        run_time="run_time.iterations=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.read(tmp_path / "run")
    assert report.retrieval is not None and report.retrieval.passages == 8 and report.retrieval.queries > 0
    assert report.retrieval.overlap1 == 1.0 and report.retrieval.overlap10 is None
    assert report.accuracy is not None and report.accuracy.accuracy is None
    client = MlflowClient(tracking_uri=store_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    assert run.data.metrics["retrieval/passages_per_s"] > 0
    assert run.data.metrics["retrieval/overlap1"] == 1.0
    assert run.data.params["workload"] == "retrieval"
