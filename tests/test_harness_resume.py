"""resume=true: a sweep that was stopped goes on, and measures nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness_crash import start, wait_until, workers_of
from harness_fixtures import STUB
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig, flag_override

from harness import log
from harness.run import job, launch, resume, unfinished
from harness.sinks import record
from harness.values.plain import write_json
from harness.values.report import Report
from harness.values.spec import RunSpec

Cli = Callable[..., int]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> list[str]:
    """The folders of the jobs that were measured, in order."""
    found: list[str] = []

    def counting(spec: RunSpec, folder: Path, **_: object) -> Report:
        found.append(folder.name)
        return launch.launch(spec, folder, STUB)

    monkeypatch.setattr(job, "launch", counting)
    return found


def stopped(monkeypatch: pytest.MonkeyPatch, cli: Cli, at: str, *arguments: str) -> None:
    """A sweep that Ctrl-C ended in the job of this number."""

    def interrupted(spec: RunSpec, folder: Path, **_: object) -> Report:
        if folder.name == at:
            raise KeyboardInterrupt
        return launch.launch(spec, folder, STUB)

    with monkeypatch.context() as patch:
        patch.setattr(job, "launch", interrupted)
        assert cli("-m", *arguments) == 130


def runs(store_uri: str) -> list[Run]:
    client = MlflowClient(tracking_uri=store_uri)
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


@pytest.mark.parametrize("logged_between", [False, True])
def test_killed_in_the_third_of_eight_jobs_it_measures_six_and_each_is_logged_once(
    cli: Cli, measured: list[str], store_uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    logged_between: bool,
) -> None:  # fmt: skip
    folder = tmp_path / "sweep"
    arguments = ("-m", "seed=0,1", "batch=1,8,4,32", f"tracking.uri={store_uri}")
    parent = start(*arguments, f"hydra.sweep.dir={folder}", stub="hang-at-4")
    wait_until(lambda: (folder / "2/report.json").exists() and workers_of(folder / "2"))
    parent.kill()
    parent.wait()
    wait_until(lambda: not workers_of(folder / "2"), seconds=20)
    kept = [(folder / name / "report.json").read_bytes() for name in "01"]
    if logged_between:  # the third job as one that failed, and the sweep as one that was killed
        assert log.main([str(folder)]) == 0
        assert sorted(run.info.status for run in runs(store_uri)) == [
            "FAILED",
            "FAILED",
            "FINISHED",
            "FINISHED",
        ]

    assert cli(*arguments, "resume=true") == 0

    assert measured == ["2", "3", "4", "5", "6", "7"]
    assert [(folder / name / "report.json").read_bytes() for name in "01"] == kept
    said = capfd.readouterr().out
    began = [line for line in said.splitlines() if line.startswith(("[1/8]", "[2/8]"))]
    assert len(began) == 4 and not any("left" in line for line in began), "kept jobs tell no time"
    assert "sweep goes on: 2 of 8 jobs are kept." in said and "[2/8] op-fp32, minilm, batch 8 x 128, " in said
    (top,) = [run for run in runs(store_uri) if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs(store_uri) if run.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    chosen = {(run.data.params["seed"], run.data.params["batch_size"]) for run in children}
    assert len(children) == len(chosen) == 8
    assert {run.info.status for run in [top, *children]} == {"FINISHED"}
    assert "failure" not in top.data.tags and top.data.tags["jobs"] == "8"
    client = MlflowClient(tracking_uri=store_uri)
    models = client.search_logged_models([top.info.experiment_id])
    assert {model.source_run_id for model in models} == {run.info.run_id for run in children}
    assert len((folder / "sweep.csv").read_text().splitlines()) == 9
    assert record.Sweep.read(folder).complete is True

    assert cli(*arguments, "resume=true") == 0  # there is nothing left to do
    assert len(measured) == 6 and len(runs(store_uri)) == 9


def test_a_job_that_was_being_logged_is_logged_once(
    cli: Cli, measured: list[str], store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.sinks import mlflow_sink

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_sink, "_log_values", killed)
        patch.setattr(record, "log_sweep", lambda folder, tracking: None)
        assert cli("-m", "batch=1,8", f"tracking.uri={store_uri}") == 130
    (half,) = [run for run in runs(store_uri) if "mlflow.parentRunId" in run.data.tags]
    assert half.data.tags["record"] == "incomplete"
    assert cli("-m", "batch=1,8", f"tracking.uri={store_uri}", "resume=true") == 0
    assert measured == ["0", "1"]
    children = [run for run in runs(store_uri) if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 2 and {run.data.tags["record"] for run in children} == {"complete"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["batch=1,8,32", "run_time.iterations=7"], "run_time.seconds of job 0 was 10.0, and would be null"),
        (["batch=8,1,32"], "batch.size of job 0 was 1, and would be 8"),
        (["batch=1"], "it has a job 1, and this command line has 1 jobs"),
        (["batch=1,8,32", "tracking.experiment=other"], "experiment other"),
        (["batch=1,8,32", "repetitions=2"], "repetitions of job 0 was 1, and would be 2"),
    ],
    ids=["setting", "order", "fewer", "store", "repetitions"],
)
def test_another_configuration_is_refused_in_one_sentence(
    cli: Cli, measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_uri: str,
    capfd: pytest.CaptureFixture[str], changed: list[str], told: str,
) -> None:  # fmt: skip
    store = f"tracking.uri={store_uri}"
    stopped(monkeypatch, cli, "1", "batch=1,8,32", store)
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert cli("-m", *changed, store, "resume=true") == 2
    said = "".join(capfd.readouterr())
    assert told in said and said.startswith("error: resume=True: ") and len(said.splitlines()) == 1
    assert measured == [] and {path: path.read_bytes() for path in before} == before


def test_jobs_may_be_added_at_the_end(cli: Cli, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch, cli, "1", "batch=1,8", "tracking=none")
    assert cli("-m", "batch=1,8,32", "tracking=none", "resume=true") == 0
    assert measured == ["1", "2"]


def test_a_sweep_that_goes_on_elsewhere_is_left_alone(
    cli: Cli, tmp_path: Path, measured: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "batch=1,8", "tracking=none") == 0
    file = tmp_path / "sweep/sweep.json"
    sweep = record.Sweep.read(file.parent).__dict__ | {"complete": None}
    write_json(file, sweep | {"owner": unfinished.own_tags()})
    assert cli("-m", "batch=1,8", "tracking=none", "resume=true") == 2
    assert "is still measured on" in "".join(capfd.readouterr())
    write_json(file, sweep | {"owner": {"host": "elsewhere", "process": "pid=1 boot=x"}})
    assert cli("-m", "batch=1,8", "tracking=none", "resume=true") == 2
    assert len(measured) == 2


def test_without_a_folder_the_newest_unfinished_sweep_of_the_command_line_goes_on(
    cli: Cli, measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sweeps = tmp_path / "it's here"
    sweeps.mkdir()
    for name, words in (("old", "batch=1,8"), ("other", "batch=1,32")):
        stopped(monkeypatch, cli, "1", words, "tracking=none")
        (tmp_path / "sweep").rename(sweeps / name)
    assert cli("-m", "batch=1,8", "tracking=none") == 0
    (tmp_path / "sweep").rename(sweeps / "done")
    choose = resume.choose

    def as_if_no_folder_was_named(config: DictConfig) -> bool:
        """The fixture names one, which is what this test is not about."""
        with flag_override(config, ["readonly", "struct"], False):
            words = config.hydra.overrides.hydra
            config.hydra.overrides.hydra = [word for word in words if not word.startswith(resume.SETTING)]
            config.hydra.sweep.dir = str(sweeps / "now")
        return choose(config)

    monkeypatch.setattr(resume, "choose", as_if_no_folder_was_named)
    measured.clear()
    assert cli("-m", "resume=true", "batch=1,8", "tracking=none") == 0
    assert measured == ["1"] and "old goes on: 1 of 2 jobs are kept." in capfd.readouterr().out
    assert record.Sweep.read(sweeps / "old").complete is True
    assert sorted(path.name for path in sweeps.iterdir()) == ["done", "old", "other"]


def test_where_there_is_nothing_to_go_on_with_a_sweep_begins(
    cli: Cli, measured: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "batch=1,8", "tracking=none", "resume=true") == 0
    assert measured == ["0", "1"] and "a new one begins" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"), [(["resume=true"], "add -m"), (["-m", "resume=true,false"], "swept")]
)
def test_resume_is_for_sweeps_and_no_axis_of_one(
    cli: Cli, measured: list[str], capfd: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert cli(*words, "tracking=none") == 2
    assert told in "".join(capfd.readouterr()).lower() and measured == []
