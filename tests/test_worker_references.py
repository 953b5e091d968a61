"""The reference's answers, computed once for a sweep: the same numbers, and never those of something else."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_fixtures import STUB, a_spec
from worker_tools import ARCHITECTURE, make_checkpoint, path_model, run_spec, write_pairs

from harness.run import job, launch
from harness.values.report import PREDICTIONS_FILE, SPEC_FILE, Accuracy, Report
from harness.values.spec import BackendSpec, BatchSpec, DataSpec, HostSpec, ModelSpec, RunSpec
from harness.worker import accuracy, references, weights
from harness.worker.__main__ import main
from harness.worker.backends import Head
from harness.worker.references import Reference
from harness.worker.tokens import random_batch

pytestmark = pytest.mark.usefixtures("hugging_face_as_it_is")

BATCHES = [random_batch(len("abc"), [4, 3], 4, seed=0)]
ORDER = np.array([1, 0])


def scored(spec: RunSpec, folder: Path, kept: Path | None) -> Accuracy:
    """What the worker says of accuracy; predictions.json lies in `folder`."""
    folder.mkdir(parents=True)
    spec.write(folder / SPEC_FILE)
    options = [] if kept is None else ["--references", str(kept)]
    assert main([*options, str(folder / SPEC_FILE)]) == 0
    found = Report.read(folder).accuracy
    assert found is not None
    return found


def models(folder: Path) -> dict[str, ModelSpec]:
    embedder = make_checkpoint(folder / "embedder", labels=None)
    (embedder / "modules.json").write_text("[]")
    return {
        "classifier": path_model(make_checkpoint(folder / "classifier")),
        "embedder": path_model(embedder),
        "encoder": path_model(make_checkpoint(folder / "encoder", labels=None)),
        "random": ModelSpec("tiny", source="random", architecture=ARCHITECTURE),
    }


@pytest.mark.parametrize("kind", ["classifier", "embedder", "encoder", "random"])
def test_the_accuracies_are_those_of_a_job_that_is_alone(kind: str, tmp_path: Path) -> None:
    data = DataSpec("pairs", path=str(write_pairs(tmp_path / "pairs.tsv")), samples="all")
    plain = run_spec(models(tmp_path)[kind], data=data)
    kept, found = tmp_path / "references", {}
    for precision in ("fp32", "bf16"):
        spec = dataclasses.replace(plain, precision=precision, backend=BackendSpec("hf", "eager"))
        alone = scored(spec, tmp_path / f"alone-{precision}", None)
        shared = scored(spec, tmp_path / f"shared-{precision}", kept)
        assert shared.reference_reused == (precision == "bf16") and not alone.reference_reused
        assert dataclasses.replace(shared, reference_reused=False) == alone
        files = [tmp_path / f"{name}-{precision}" / PREDICTIONS_FILE for name in ("alone", "shared")]
        if kind in ("classifier", "embedder"):
            assert files[0].read_bytes() == files[1].read_bytes()
        found[precision] = alone
    assert found["fp32"] != found["bf16"], "what is measured is not taken for what it is compared with"
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("kind", ["classifier", "embedder"])
def test_hugging_face_as_it_is_answers_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataSpec("pairs", path=str(write_pairs(tmp_path / "pairs.tsv")), samples="all")
    spec = run_spec(models(tmp_path)[kind], data=data, backend=BackendSpec("hf", "eager"))
    computed, seen = accuracy._computed, []

    def counting(call: object, inputs: accuracy.Inputs, what: str, collect: Any) -> Any:
        seen.append(what)
        return computed(call, inputs, what, collect)  # type: ignore[arg-type]

    monkeypatch.setattr(accuracy, "_computed", counting)
    alone = scored(spec, tmp_path / "alone", None)
    assert seen == ["reference", "measured"]
    assert scored(spec, tmp_path / "first", tmp_path / "kept") == alone and seen[2:] == ["reference"]
    traced = dataclasses.replace(spec, backend=BackendSpec("hf", "jit"))
    assert scored(traced, tmp_path / "traced", tmp_path / "kept").reference_reused
    assert len(seen) > 3 and "reference" not in seen[3:], "another graph is measured"


def test_whatever_the_answers_depend_on_makes_others_of_them(tmp_path: Path) -> None:
    data = DataSpec("pairs", path=str(write_pairs(tmp_path / "pairs.tsv")), samples="all")
    model = path_model(make_checkpoint(tmp_path / "one"))
    other = path_model(make_checkpoint(tmp_path / "two", seed=4))
    vocabulary = make_checkpoint(tmp_path / "words")
    words = (vocabulary / "vocab.txt").read_text().split("\n")
    words[5:7] = reversed(words[5:7])
    (vocabulary / "vocab.txt").write_text("\n".join(words))
    random = ModelSpec("tiny", source="random", architecture=ARCHITECTURE)
    spec = run_spec(model, data=data)
    ids = dataclasses.replace(spec, model=random)
    specs = [
        spec,
        dataclasses.replace(spec, model=other),
        dataclasses.replace(spec, model=dataclasses.replace(model, tokenizer=str(vocabulary))),
        dataclasses.replace(spec, data=dataclasses.replace(data, samples=4)),
        ids,
        dataclasses.replace(ids, seed=1),
        dataclasses.replace(ids, batch=BatchSpec(2, 6)),
    ]
    for number, one in enumerate(specs):
        assert not scored(one, tmp_path / str(number), tmp_path / "kept").reference_reused, number
    assert len(list((tmp_path / "kept").iterdir())) == len(specs)
    # What the reference does not depend on changes nothing.
    batch = dataclasses.replace(spec, batch=BatchSpec(1, 4))
    moved = dataclasses.replace(spec, model=path_model(make_checkpoint(tmp_path / "elsewhere")))
    for number, one in enumerate((batch, moved)):
        assert scored(one, tmp_path / f"same-{number}", tmp_path / "kept").reference_reused


def head(seed: int = 0) -> Head:
    return Head(weights.load(ModelSpec("tiny", source="random", architecture=ARCHITECTURE), seed).model)


def counted(rows: np.ndarray) -> tuple[Callable[[], np.ndarray], list[int]]:
    calls: list[int] = []

    def compute() -> np.ndarray:
        calls.append(1)
        return rows

    return compute, calls


def test_other_conditions_kinds_and_orders_are_others(tmp_path: Path) -> None:
    compute, calls = counted(np.ones((2, 3), np.float32))
    for conditions, what, order in (
        ("a", "x", ORDER),
        ("b", "x", ORDER),
        ("a", "y", ORDER),
        ("a", "x", 1 - ORDER),
    ):
        for _ in range(2):
            Reference(head(), tmp_path, conditions).answers(BATCHES, order, what, compute)
    assert len(calls) == 4


def test_a_job_that_is_alone_keeps_nothing(tmp_path: Path) -> None:
    compute, calls = counted(np.ones((2, 3), np.float32))
    for _ in range(2):
        Reference(head()).answers(BATCHES, ORDER, "x", compute)
    assert len(calls) == 2


@pytest.mark.parametrize("broken", [b"", b"\x93NUMPY", "cut", "rows", "NaN"])
def test_what_is_no_whole_answer_is_computed_anew_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bytes | str
) -> None:
    rows = np.ones((2, 3), np.float32)
    compute, calls = counted(rows)
    Reference(head(), tmp_path).answers(BATCHES, ORDER, "x", compute)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if isinstance(broken, bytes):
        file.write_bytes(broken)
    elif broken == "cut":
        file.write_bytes(whole[:-1])
    else:
        np.save(file, rows[:1] if broken == "rows" else rows * np.float32("nan"))
    reference = Reference(head(), tmp_path)
    assert (reference.answers(BATCHES, ORDER, "x", compute) == rows).all()
    assert len(calls) == 2 and not reference.reused
    assert "is no whole reference" in capsys.readouterr().err and file.read_bytes() == whole


def test_a_reader_meets_the_whole_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    save = np.save

    def watched(file: object, rows: np.ndarray) -> None:
        save(file, rows)  # type: ignore[arg-type]
        seen.append([path.suffix for path in tmp_path.iterdir()])

    monkeypatch.setattr(references.np, "save", watched)
    Reference(head(), tmp_path).answers(BATCHES, ORDER, "x", lambda: np.ones((2, 3), np.float32))
    assert seen == [[".part"]] and [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_answers_that_cannot_be_kept_cost_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    rows = Reference(head(), tmp_path / "file/references").answers(
        BATCHES, ORDER, "x", lambda: np.ones((2, 3), np.float32)
    )
    assert rows.shape == (2, 3) and "is not kept" in capsys.readouterr().err


def test_answers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    def fails() -> np.ndarray:
        raise RuntimeError("the reference model gave NaN")

    with pytest.raises(RuntimeError):
        Reference(head(), tmp_path).answers(BATCHES, ORDER, "x", fails)
    assert list(tmp_path.iterdir()) == []


def test_the_jobs_of_a_sweep_share_a_folder_and_a_run_has_none(
    cli: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path | None] = []

    def watched(spec: RunSpec, folder: Path, references: Path | None = None) -> Report:
        seen.append(references)
        return launch.launch(spec, folder, STUB, references)

    monkeypatch.setattr(job, "launch", watched)
    assert cli("-m", "batch=1,8", "tracking=none") == 0
    assert cli("tracking=none") == 0
    assert seen == [tmp_path / "sweep/references"] * 2 + [None]


def test_the_worker_is_told_the_folder(tmp_path: Path) -> None:
    worker = (
        sys.executable,
        "-c",
        f"import json, sys; json.dump(sys.argv[1:], open({str(tmp_path / 'said')!r}, 'w'))",
    )
    for kept, said in ((None, []), (tmp_path / "kept", ["--references", str(tmp_path / "kept")])):
        launch.launch(a_spec(host=HostSpec()), tmp_path / "run", worker, kept)
        assert json.loads((tmp_path / "said").read_text()) == [*said, str(tmp_path / "run/spec.json")]


@pytest.mark.parametrize("wrong", [[], ["a", "b"], ["--other", "x", "spec.json"], ["--references"]])
def test_another_call_is_told_how_it_goes(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    assert capsys.readouterr().err


def test_it_is_the_same_model(tmp_path: Path) -> None:
    one = head()
    with torch.inference_mode():
        assert torch.equal(Reference(one, tmp_path)(*BATCHES[0].inputs), one(*BATCHES[0].inputs))
