"""No two jobs of a sweep look alike: in table, CSV, charts, comparisons and names."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare_reports import a_report, save
from harness_fixtures import a_spec
from mlflow import MlflowClient
from rich.console import Console

from harness.ask.schema import Tracking
from harness.compare import matching, subjects
from harness.judge.variants import Subject
from harness.sinks import axes, columns, console, files, record, shootout, table
from harness.values import settings
from harness.values.report import Report
from harness.values.spec import BackendSpec, BatchSpec, HostSpec, LoadSpec, ModelSpec, RunSpec, RunTimeSpec

Cli = Callable[..., int]


def model(path: str, **changes: Any) -> ModelSpec:
    return ModelSpec(**({"name": Path(path).name, "source": "path", "path": path} | changes))


# What is swept, and the texts that tell the two jobs apart.
SWEPT: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, str]]] = [
    ("skip_padding", {}, {"backend": BackendSpec(skip_padding=True)}, ("false", "true")),
    ("seed", {"seed": 0}, {"seed": 7}, ("0", "7")),
    ("allocator", {}, {"host": HostSpec(allocator="jemalloc")}, ("default", "jemalloc")),
    ("cores", {}, {"host": HostSpec(cores="0-1")}, ("null", "0-1")),
    ("run_time.seconds", {}, {"run_time": RunTimeSpec(1.0)}, ("10.0", "1.0")),
    ("pad_to", {}, {"batch": BatchSpec(2, 8, pad_to="longest")}, ("seq_len", "longest")),
    ("mean_length", {}, {"batch": BatchSpec(2, 8, mean_length=4.0)}, ("null", "4.0")),
    ("lengths", {}, {"batch": BatchSpec(2, 8, lengths=[2, 4])}, ("fixed", "2,4")),
    ("rate", {"load": LoadSpec("server", 5.0)}, {"load": LoadSpec("server", 9.0)}, ("5.0", "9.0")),
    ("model.path", {"model": model("/a/mine")}, {"model": model("/b/mine")}, ("a/mine", "b/mine")),
    ("model", {"model": model("/a/mine")}, {"model": model("/a/yours")}, ("mine", "yours")),
    (
        "hidden_size",
        {"model": ModelSpec("x", source="random", architecture={"hidden_size": 32})},
        {"model": ModelSpec("x", source="random", architecture={"hidden_size": 64})},
        ("32", "64"),
    ),
    ("contender", {"precision": "fp32"}, {"precision": "bf16"}, ("op-fp32", "op-bf16")),
]  # fmt: skip


@pytest.mark.parametrize(("title", "one", "other", "told"), SWEPT, ids=[case[0] for case in SWEPT])
def test_every_axis_of_a_sweep_is_shown_and_once(
    title: str, one: dict[str, Any], other: dict[str, Any], told: tuple[str, str]
) -> None:
    report = a_report()
    reports = [dataclasses.replace(report, spec=a_spec(**changes)) for changes in (one, other)]
    shown = columns.settings(reports)
    expected = [] if title == "contender" else [title]
    assert [column.title for column in shown] == expected
    written = list(csv.DictReader(io.StringIO(files._csv(table.rows(reports)))))
    assert written[0] != written[1]
    labels = columns.labels(reports)
    assert len(set(labels)) == 2 and all(text in label for text, label in zip(told, labels, strict=True))
    assert [text.get_text() for text in files.sweep_figure(reports).axes[0].get_yticklabels()] == labels
    assert [point.name for point in shootout.points(reports)] == labels


def test_a_short_title_says_which_field_it_is() -> None:
    model = ModelSpec("x", architecture={"hidden_size": 32})
    names = list(settings.flat(a_spec(model=model)))
    titles = [settings.title(name) for name in names]
    assert len(set(titles)) == len(names)
    results = {
        column.title for column in (*columns.RESULTS, *columns.REPEATED, *columns.SERVED, *columns.LOADED)
    }
    assert not results & set(titles)


def test_a_narrow_console_cuts_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    long = ("/checkpoints/first/a-long-name-of-a-model", "/checkpoints/second/a-long-name-of-a-model")
    reports = [
        a_report(10.0, precision="bf16_qint8", seed=seed, model=model(path))
        for path in long
        for seed in (0, 1)
    ]
    console.summary(Console(width=80), reports)
    said = capsys.readouterr().out
    assert "…" not in said and "second/a-long-name-of-a-model" in said and "accuracy" in said


def test_paths_are_told_apart_by_their_ends() -> None:
    specs = [a_spec(model=model(path)) for path in ("/x/one/mine", "/y/one/mine", "/y/two/mine")]
    read = axes.reader("model.path", specs)
    assert [read(spec) for spec in specs] == ["x/one/mine", "y/one/mine", "y/two/mine"]


def test_a_note_names_the_job_and_not_only_its_contender() -> None:
    quiet, busy = a_report(10.0, seed=1), a_report(10.0, seed=2)
    assert busy.timing is not None
    timing = dataclasses.replace(busy.timing, noisy=True, noisy_because=("a neighbour",))
    (note,) = table.notes([quiet, dataclasses.replace(busy, timing=timing)])[-1:]
    assert note.startswith("op-fp32 seed 2 was disturbed")


def test_a_speed_up_is_against_the_baseline_of_the_same_setting() -> None:
    def of(backend: str, seconds: float, p50: float, path: str) -> Report:
        return a_report(p50, backend, run_time=RunTimeSpec(seconds), model=model(path))

    reports = [
        of(backend, seconds, p50, path)
        for backend, factor in (("hf", 1.0), ("op", 0.5))
        for seconds, path, p50 in (
            (1.0, "/a/m", 10 * factor),
            (2.0, "/a/m", 30 * factor),
            (1.0, "/b/m", 70 * factor),
        )
    ]
    assert [row.speedup for row in table.rows(reports)] == pytest.approx([1.0] * 3 + [2.0] * 3)


def test_variants_of_one_name_find_their_own_counterparts(tmp_path: Path) -> None:
    def sweep(name: str, root: str, changes: list[dict[str, Any]]) -> list[Subject]:
        for number, change in enumerate(changes):
            save(a_report(10.0, **change), tmp_path / name / str(number))
        return subjects.read(tmp_path / name)

    first = sweep("one", "/one", [{"seed": 0}, {"seed": 1}])
    other = sweep("other", "/other", [{"seed": 1}])
    assert [one.name for one in first] == ["op-fp32 tiny 2x8 seed 0 (one)", "op-fp32 tiny 2x8 seed 1 (one)"]
    assert [partner is not None for _, partner in matching.partners(first, other)] == [False, True]
    # Other folders on another machine, told apart by the same ends of their paths.
    here = sweep("here", "/ci/1", [{"model": model("/ci/1/a/mine")}, {"model": model("/ci/1/b/mine")}])
    there = sweep("there", "/ci/2", [{"model": model("/ci/2/b/mine")}, {"model": model("/ci/2/a/mine")}])
    found = [
        (one.setting, other.setting) for one, other in matching.partners(here, there) if other is not None
    ]
    assert found == [("model.path a/mine", "model.path a/mine"), ("model.path b/mine", "model.path b/mine")]


def test_mlflow_has_every_axis_in_names_and_params(store_uri: str, tmp_path: Path) -> None:
    changes = [
        {"seed": seed, "host": HostSpec(allocator=name)}
        for seed in (0, 1)
        for name in ("default", "jemalloc")
    ]
    for number, change in enumerate(changes):
        save(a_report(10.0 + number, at=number, **change), tmp_path / "sweep" / str(number))
        (tmp_path / "sweep" / str(number) / ".hydra").mkdir()
    tracking = Tracking(uri=store_uri, experiment="question")
    record.Sweep("id", "question", tracking, complete=True).write(tmp_path / "sweep")
    for _ in range(2):  # logging it again changes nothing
        record.log_sweep(tmp_path / "sweep", tracking)
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([client.get_experiment_by_name("question").experiment_id])
    told = {run.info.run_name: run.data for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert set(told) == {
        f"op-fp32 tiny 2x8 allocator {name} seed {seed}"
        for seed in (0, 1)
        for name in ("default", "jemalloc")
    }
    one = told["op-fp32 tiny 2x8 allocator jemalloc seed 1"].params
    assert (one["seed"], one["host.allocator"]) == ("1", "jemalloc")
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["best"] == "op-fp32 tiny 2x8 allocator default seed 0"


def test_a_best_job_needs_enough_calls(store_uri: str, tmp_path: Path) -> None:
    report = a_report()
    assert report.timing is not None
    few = dataclasses.replace(report, timing=dataclasses.replace(report.timing, count=1))
    (save(few, tmp_path / "sweep/0") / ".hydra").mkdir()
    tracking = Tracking(uri=store_uri, experiment="question")
    record.Sweep("id", "question", tracking, complete=True).write(tmp_path / "sweep")
    record.log_sweep(tmp_path / "sweep", tracking)
    client = MlflowClient(tracking_uri=store_uri)
    for run in client.search_runs([client.get_experiment_by_name("question").experiment_id]):
        assert "best" not in run.data.tags and "best_throughput_sps" not in run.data.metrics


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [save(a_report(), tmp_path / place / "run") for place in ("then", "now")]
    names = [target[0].name for target in subjects.read_all([runs[0], runs[1] / "report.json"])]
    assert names == ["op-fp32 tiny 2x8 (then/run)", "op-fp32 tiny 2x8 (now/run)"]


def test_two_checkpoints_of_one_name_are_told_when_they_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.compare.__main__ import main

    runs = [str(save(a_report(model=model(path)), tmp_path / path[1:])) for path in ("/a/mine", "/b/mine")]
    assert main(runs) == 0
    assert "the model mine is /a/mine, and /b/mine" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_a_refused_job_has_the_name_of_its_own_model(cli: Cli, tmp_path: Path, mode: list[str]) -> None:
    """In a folder that is used again, and in a sweep, where the other jobs are kept."""
    assert cli(*mode, "tracking=none") == 0
    wrong = [f"model.path={tmp_path}/no/mine"] if not mode else [f"model.path=null,{tmp_path}/no/mine", "-m"]
    assert cli("tracking=none", *wrong) == 2
    report = Report.read(tmp_path / ("sweep/1" if mode else "run"))
    assert report.refused and report.spec.model.name == "mine"


def test_a_given_path_names_the_model_even_where_it_is_contradicted(cli: Cli, tmp_path: Path) -> None:
    assert cli("tracking=none") == 0
    assert cli("tracking=none", f"model.path={tmp_path}", "model.source=hub") == 2
    assert Report.read(tmp_path / "run").spec.model.name == tmp_path.name


def test_a_sweep_over_a_field_of_no_column_has_it_in_its_table(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", "seed=3,4", "backend.skip_padding=true,false", "tracking=none") == 0
    lines = (tmp_path / "sweep/sweep.csv").read_text().splitlines()
    assert ",backend.skip_padding," in lines[0] and len(set(lines)) == 5
    assert RunSpec.read(tmp_path / "sweep/0/spec.json").seed == 3


def test_four_jobs_of_two_axes_are_told_apart_everywhere(
    cli: Cli, store_uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A job has the same values in each place, and none has another's."""
    assert cli("-m", "backend.skip_padding=false,true", "seed=0,1", f"tracking.uri={store_uri}") == 0
    pairs = [("false", "0"), ("false", "1"), ("true", "0"), ("true", "1")]
    out = capfd.readouterr().out
    begun = [line for line in out.splitlines() if line.startswith("[") and "->" in line]
    for line, (skip, seed) in zip(begun, pairs, strict=True):
        assert f", backend.skip_padding={skip}, seed={seed}  -> " in line
    rows = [line.split() for line in out.splitlines() if line.startswith("op-fp32 ")]
    assert [tuple(row[1:3]) for row in rows] == pairs
    with (tmp_path / "sweep/sweep.csv").open() as file:
        assert [(row["backend.skip_padding"], row["seed"]) for row in csv.DictReader(file)] == pairs
    page = (tmp_path / "sweep/sweep.html").read_text()
    assert all(f"<td>{skip}</td><td>{seed}</td>" in page for skip, seed in pairs)
    reports = [Report.read(tmp_path / f"sweep/{number}") for number in range(4)]
    charted = [tick.get_text() for tick in files.sweep_figure(reports).axes[0].get_yticklabels()]
    assert charted == [f"op-fp32 skip_padding {skip} seed {seed}" for skip, seed in pairs]
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    named = {run.info.run_name for run in children}
    assert named == {f"op-fp32 minilm 4x128 skip_padding {skip} seed {seed}" for skip, seed in pairs}
    chosen = {(run.data.params["skip_padding"].lower(), run.data.params["seed"]) for run in children}
    assert chosen == set(pairs)
