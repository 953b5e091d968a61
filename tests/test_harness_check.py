import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import a_spec

from harness.ask.check import check
from harness.values.errors import UserError
from harness.values.spec import (
    BackendSpec,
    BatchSpec,
    DataSpec,
    HostSpec,
    LoadSpec,
    MeasureSpec,
    ModelSpec,
    RunSpec,
    RunTimeSpec,
    task_of,
    warmup,
)

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("precision", {"precision": "fp99"}),
    ("precision", {"precision": "bf16_qint8", "backend": BackendSpec("hf")}),
    ("precision.target", {"precision": "bf16", "target": {"top10": 0.9}}),
    ("precision.target", {"precision": "bf16_qint8", "target": {"top10": 1.1}}),
    (
        "precision.target",
        {"precision": "bf16_qint8", "target": {"top10": 0.9}, "data": DataSpec("synthetic")},
    ),
    ("backend.name", {"backend": BackendSpec("tpu")}),
    ("backend.graph", {"backend": BackendSpec(graph="drawn")}),
    ("backend.skip_padding", {"backend": BackendSpec("hf", skip_padding=True)}),
    ("batch.size", {"batch": BatchSpec(0, 8)}),
    ("batch.seq_len", {"batch": BatchSpec(1, 0)}),
    ("batch.seq_len", {"batch": BatchSpec(1, 65)}),
    ("batch.tokens", {"batch": BatchSpec(1, 8, "real")}),
    ("batch.tokens", {"batch": BatchSpec(1, 8, "text")}),
    ("run_time.seconds", {"run_time": RunTimeSpec(1.0, 3)}),
    ("run_time.seconds", {"run_time": RunTimeSpec()}),
    ("run_time.seconds", {"run_time": RunTimeSpec(0.0)}),
    ("run_time.seconds", {"run_time": RunTimeSpec(float("nan"))}),
    ("run_time.iterations", {"run_time": RunTimeSpec(iterations=0)}),
    ("run_time.warmup_seconds", {"run_time": RunTimeSpec(1.0, None, 1.0, 3)}),
    ("run_time.warmup_seconds", {"run_time": RunTimeSpec(1.0, None, -1.0)}),
    ("run_time.warmup_iterations", {"run_time": RunTimeSpec(1.0, None, None, -1)}),
    ("data.samples", {"data": DataSpec("x", samples=0)}),
    ("data.samples", {"data": DataSpec("x", samples="many")}),
    ("data.path", {"data": DataSpec("x", path="no/such/file.tsv")}),
    ("data.columns", {"data": DataSpec("x", columns={"label": "y"})}),
    ("model.source", {"model": ModelSpec("x", source="cloud")}),
    ("model.source", {"model": ModelSpec("x", source="hub")}),
    ("model.task", {"model": ModelSpec("x", task="chess", architecture={"hidden_size": 32})}),
    ("model", {"model": ModelSpec("x")}),
    ("model.path", {"model": ModelSpec("x", path="no/such/folder")}),
    ("model.path", {"model": ModelSpec("x", path=".", source="random", architecture={"hidden_size": 32})}),
    ("host.threads", {"host": HostSpec(threads=0)}),
    ("host.instances", {"host": HostSpec(instances=0)}),
    ("host.cores", {"host": HostSpec(cores="0", numa=0)}),
    ("host.timeout_seconds", {"host": HostSpec(timeout_seconds=0.0)}),
    ("host.allocator", {"host": HostSpec(allocator="mine")}),
    ("batch.lengths", {"batch": BatchSpec(1, 8, lengths="short")}),
    ("batch.lengths", {"batch": BatchSpec(1, 8, lengths=[])}),
    ("batch.lengths", {"batch": BatchSpec(1, 8, lengths=[4, 9])}),
    ("batch.lengths", {"batch": BatchSpec(1, 8, lengths=[4.5])}),
    ("batch.lengths", {"batch": BatchSpec(1, 8, "text", "uniform"), "data": DataSpec("x", shipped="p.tsv")}),
    ("batch.mean_length", {"batch": BatchSpec(1, 8, mean_length=5.0)}),
    ("batch.mean_length", {"batch": BatchSpec(1, 8, lengths="mrpc-like", mean_length=9.0)}),
    ("batch.pad_to", {"batch": BatchSpec(1, 8, pad_to="moon")}),
    ("load.name", {"load": LoadSpec("burst")}),
    ("batch.size", {"load": LoadSpec("single_stream")}),
    ("load.rate", {"load": LoadSpec(rate=5.0)}),
    ("load.rate", {"load": LoadSpec("server", rate=0.0)}),
    ("load.rate", {"load": LoadSpec("server"), "host": HostSpec(instances=2)}),
    ("load.bound_ms", {"load": LoadSpec("server", bound_ms=-1.0)}),
    ("load.resolution", {"load": LoadSpec("server", resolution=0.0)}),
    ("run_time.iterations", {"load": LoadSpec("server"), "run_time": RunTimeSpec(iterations=661)}),
    ("measure.accuracy", {"measure": MeasureSpec(False, False)}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**32}),
    ("host.timeout_seconds", {"run_time": RunTimeSpec(20.0), "host": HostSpec(timeout_seconds=20.0)}),
    ("host.timeout_seconds", {"run_time": RunTimeSpec(19.0), "host": HostSpec(timeout_seconds=20.0)}),
    (
        "model.architecture.max_position_embeddings",
        {"model": ModelSpec("x", source="random", architecture={"max_position_embeddings": "abc"})},
    ),
    (
        "model.architecture.max_position_embeddings",
        {"model": ModelSpec("x", source="random", architecture={"max_position_embeddings": 0})},
    ),
]


@pytest.mark.parametrize(
    ("setting", "changes"), WRONG, ids=lambda item: item if isinstance(item, str) else ""
)
def test_a_wrong_setting_is_named_with_its_value_and_a_remedy(setting: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        check(a_spec(**changes))
    assert caught.value.setting == setting
    text = str(caught.value)
    assert text.startswith(f"{setting}={caught.value.value!r}: ") and ". " in text and "\n" not in text


def test_a_right_spec_passes_unchanged() -> None:
    assert check(a_spec()) == a_spec()


def test_the_spec_survives_json() -> None:
    spec = a_spec(data=DataSpec("x", samples="all"), run_time=RunTimeSpec(iterations=3))
    assert RunSpec.from_plain(json.loads(json.dumps(spec.to_plain()))) == spec


@pytest.mark.parametrize(
    ("run_time", "expected"),
    [
        (RunTimeSpec(60.0), (6.0, None)),
        (RunTimeSpec(iterations=50), (None, 5)),
        (RunTimeSpec(iterations=3), (None, 1)),
        (RunTimeSpec(60.0, warmup_seconds=0.0), (0.0, None)),
        (RunTimeSpec(60.0, warmup_iterations=7), (None, 7)),
    ],
)
def test_warm_up_is_a_tenth_unless_it_is_given(run_time: RunTimeSpec, expected: tuple[Any, Any]) -> None:
    assert warmup(run_time) == expected


def test_a_given_path_beats_the_source_of_the_option(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 16}')
    table = tmp_path / "pairs.tsv"
    table.touch()
    model = ModelSpec("other", source="package", package="p", hub_id="h", hub_tokenizer="t", path=str(folder))
    spec = check(a_spec(model=model, data=DataSpec("mrpc", hub_id="h", path=str(table))))
    assert (spec.model.name, spec.model.source, spec.model.path) == ("mine", "path", str(folder))
    assert spec.model.hub_id is spec.model.package is spec.model.hub_tokenizer is spec.data.hub_id is None
    assert spec.data.name == "pairs.tsv"
    with pytest.raises(UserError, match="1 to 16"):
        check(dataclasses.replace(spec, batch=BatchSpec(1, 17)))


def test_the_time_that_a_job_has_is_not_judged_where_nothing_is_timed() -> None:
    spec = a_spec(
        run_time=RunTimeSpec(20.0), host=HostSpec(timeout_seconds=20.0), measure=MeasureSpec(throughput=False)
    )
    assert check(spec) == spec


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_seed_that_numpy_and_torch_take_passes(seed: int) -> None:
    assert check(a_spec(seed=seed)).seed == seed


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be read"),
        (b'{"max_position_embeddings": 16', "cannot be read"),
        (b'{"name": "\xff"}', "cannot be read"),
        (b"[16]", "holds no object"),
        (b'{"max_position_embeddings": "abc"}', "max_position_embeddings='abc'"),
        (b'{"max_position_embeddings": true}', "max_position_embeddings=True"),
    ],
)
def test_a_broken_config_of_a_checkpoint_names_its_folder(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        check(a_spec(model=ModelSpec("x", path=str(tmp_path))))
    assert caught.value.setting == "model.path" and caught.value.value == str(tmp_path)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_that_may_not_be_read_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").touch()

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("harness.ask.check.read_json", refuse)
    with pytest.raises(UserError, match=r"model\.path=.*cannot be read \(Permission denied\)"):
        check(a_spec(model=ModelSpec("x", path=str(tmp_path))))


def test_the_task_is_read_from_the_checkpoint() -> None:
    assert task_of(["BertForSequenceClassification"], False) == "paraphrase-classification"
    assert task_of(["BertModel"], True) == "sentence-embedding"
    assert task_of(["BertForMaskedLM"], False) == "encoder"
