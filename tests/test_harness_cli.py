"""`python -m harness` from the command line to the exit status, with a stub in place of the worker."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_fixtures import STUB
from mlflow import MlflowClient

from harness import __main__ as command
from harness import log
from harness.ask.composing import Held
from harness.ask.schema import ROOT
from harness.run import job, launch
from harness.sinks import mlflow_store
from harness.sinks.mlflow_store import Store
from harness.values.report import Report

Cli = Callable[..., int]


@pytest.mark.parametrize(
    "wrong",
    [
        ["precision=fp99"],
        ["model=gpt"],
        ["nogroup=1"],
        ["batch.nofield=1"],
        ["batch=7"],
        ["batch.size=abc"],
        ["batch.size=0"],
        ["batch.seq_len=513"],
        ["run_time.seconds=1", "run_time.iterations=1"],
        ["model.path=no/such/folder"],
        ["data.path=no/such/file.tsv"],
        ["backend=hf", "precision=bf16_qint8"],
        ["host.cores=9999"],
        ["contender=hf-fp32", "precision=bf16"],
        ["--nonsense"],
        ["-m", "batch.size=0,0", "tracking=none"],
        ["-m", "batch.size=abc,1", "tracking=none"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2_and_names_it(
    cli: Cli, wrong: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli(*wrong) == 2
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert wrong[-1 if wrong[0] != "-m" else 1].split("=")[0].removeprefix("-") in said


def test_a_typo_in_an_option_names_the_options(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    """Hydra's error for it is an OSError too, and must not be taken for a folder that cannot be written."""
    assert cli("precision=bf61") == 2
    assert (
        "precision=bf61: is no option of this group. Choose one of bf16, bf16_qint8" in capfd.readouterr().err
    )


def test_a_run_ends_with_0_and_leaves_its_record(cli: Cli, store_uri: str, tmp_path: Path) -> None:
    assert cli(f"tracking.uri={store_uri}", "run_time.iterations=3") == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} >= {
        "report.json", "report.md", "spec.json", "samples.npz", "latency.png", ".hydra", "tracking.json",
    }  # fmt: skip
    assert Report.read(run).spec.run_time.iterations == 3
    client = MlflowClient(tracking_uri=store_uri)
    (logged,) = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    assert logged.info.status == "FINISHED"


def test_a_failed_job_ends_with_1_and_is_logged_as_failed(
    cli: Cli, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "kill")
    assert cli(f"tracking.uri={store_uri}") == 1
    client = MlflowClient(tracking_uri=store_uri)
    (logged,) = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    assert logged.info.status == "FAILED" and "SIGKILL" in logged.data.tags["failure"]


def test_eight_jobs_are_one_parent_with_eight_children(
    cli: Cli, store_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "precision=glob(*)", "batch=1,4", f"tracking.uri={store_uri}") == 0
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 8 and parent.info.status == "FINISHED"
    assert {(run.data.params["precision"], run.data.params["batch_size"]) for run in children} == {
        (precision, size) for precision in ("fp32", "fp32_qint8", "bf16", "bf16_qint8") for size in ("1", "4")
    }
    assert "op-bf16_qint8" in capfd.readouterr().out


def test_an_experiment_has_its_baseline(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("+experiment=quickstart", "tracking=none") == 0
    lines = (tmp_path / "sweep/sweep.csv").read_text().splitlines()
    assert len(lines) == 6 and lines[1].startswith("hf-fp32,")
    assert "mlflow" not in capfd.readouterr().out.lower()


def test_a_sweep_goes_on_after_a_failed_job(cli: Cli, store_uri: str, tmp_path: Path) -> None:
    assert cli("-m", "host.cores=null,9999", "batch=1", f"tracking.uri={store_uri}") == 2
    settings = ["run_time.iterations=9", "host.timeout_seconds=0.01", f"tracking.uri={store_uri}"]
    assert cli("-m", "batch=1,4", *settings) == 1
    kinds = [Report.read(tmp_path / f"sweep/{job}").failure for job in (0, 1)]
    assert [failure.kind for failure in kinds if failure] == ["timeout", "timeout"]


def test_an_interrupted_sweep_keeps_what_is_measured_and_closes_its_parent(
    cli: Cli, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_is_interrupted(spec: object, folder: Path, **_: object) -> Report:
        if folder.name == "1":
            raise KeyboardInterrupt
        return launch.launch(spec, folder, STUB)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "launch", second_is_interrupted)
    assert cli("-m", "batch=1,4,8", f"tracking.uri={store_uri}") == 130
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([client.get_experiment_by_name("bert-op").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    assert (tmp_path / "sweep/sweep.md").is_file()


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_a_store_that_cannot_be_written_costs_no_result(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: list[str]
) -> None:
    assert cli(*mode, "tracking.uri=sqlite:////proc/no/mlflow.db") == 1
    said = "".join(capfd.readouterr())
    assert "tracking.uri" in said and "python -m harness.log" in said
    folder = tmp_path / ("sweep/0" if mode else "run")
    assert Report.read(folder).status == "finished" and (folder / "report.md").is_file()


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_credentials_are_nowhere(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: list[str]
) -> None:
    # Port 9 discards: the connection is refused at once.
    assert cli(*mode, "tracking.uri=http://amy:s3cret@127.0.0.1:9") == 1
    said = "".join(capfd.readouterr())
    assert "s3cret" not in said and "amy" not in said and "***@127.0.0.1" in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "overrides.yaml", "hydra.yaml", "tracking.json"} <= {path.name for path in written}
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize("source", ["environment", "YAML"])
def test_a_store_that_wants_credentials_is_opened_with_them_to_the_end(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    uri, seen = "http://amy:s3cret@127.0.0.1:9", []

    def connect(real: str, shown: str, experiment: str) -> Store:
        seen.append(real)
        raise ConnectionError("refused")

    monkeypatch.setattr(mlflow_store, "_connect", connect)
    arguments = ["tracking=server"]
    if source == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    else:
        (tmp_path / "conf/tracking").mkdir(parents=True)
        (tmp_path / "conf/tracking/team.yaml").write_text(f"kind: mlflow\nuri: {uri}\n")
        arguments = [f"--config-dir={tmp_path}/conf", "tracking=team"]
    assert cli(*arguments, "batch=1", "-m") == 1
    assert seen == [uri, uri], "when the sweep begins, and when it ends"
    assert log.main([str(tmp_path / "sweep")]) == 1 and seen == [uri] * 3
    assert log.main([str(tmp_path / "sweep/0")]) == 1 and seen == [uri] * 4
    written = [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()]
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


def test_credentials_that_nobody_knows_any_more_are_asked_for(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("tracking.uri=http://amy:s3cret@127.0.0.1:9") == 1
    monkeypatch.delenv("BERT_OP_TRACKING_URI")  # as in another process, later
    capfd.readouterr()
    assert log.main([str(tmp_path / "run")]) == 1
    said = capfd.readouterr().err
    assert "credentials" in said and "MLFLOW_TRACKING_URI" in said and "--uri" in said


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["tracking.kind=mlfow"], "tracking.kind='mlfow'"),
        (["tracking=server"], "tracking.uri=None"),
        (["tracking.uri=nonsense"], "tracking.uri='nonsense'"),
        (["tracking.uri=sqlite:///"], "tracking.uri='sqlite:///': names no file"),
        (["tracking.uri=sqlite://mlflow.db"], "tracking.uri='sqlite://mlflow.db': names no file"),
        (["+batch.foo=1"], "batch.foo=1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_measured(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    wrong: list[str], named: str, mode: list[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(job, "launch", None)
    assert cli(*mode, *(["tracking=none"] if "batch" in named else []), *wrong) == 2
    said = "".join(capfd.readouterr())
    assert said.count("error: ") == 1 and named in said and "Traceback" not in said


@pytest.mark.parametrize("wrong", ["batch.size=0,-1", "+batch.foo=1,2"])
def test_a_sweep_of_nothing_but_wrong_settings_ends_with_2_and_shows_no_results(
    cli: Cli, store_uri: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, wrong: str
) -> None:
    assert cli("-m", wrong, f"tracking.uri={store_uri}") == 2
    said = capfd.readouterr()
    first, second = said.err.splitlines()
    name, values = wrong.lstrip("+").split("=")
    for value, line in zip(values.split(","), (first, second), strict=True):
        assert line.startswith(f"error: {name}={value}: ")
    assert said.out == "Nothing was measured: all 2 jobs were refused.\n"
    client = MlflowClient(tracking_uri=store_uri)
    assert client.search_runs([client.get_experiment_by_name("bert-op").experiment_id]) == []
    assert not (tmp_path / "sweep").exists()


def test_wrong_settings_of_some_jobs_end_with_2_and_the_others_are_shown(
    cli: Cli, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "tracking.kind=none,mlfow") == 2
    said = "".join(capfd.readouterr())
    assert "error: tracking.kind='mlfow'" in said and "op-fp32" in said and "report: " in said


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_wrong_settings_end_with_2_whichever_process_finds_them(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], launcher: str
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher", reason="needs the extra")
    places = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    settings = ["+batch.foo=1,2", "measure=accuracy", "tracking=none", f"hydra/launcher={launcher}", *places]
    assert cli("-m", *settings) == 2
    said = "".join(capfd.readouterr())
    assert said.count("error: batch.foo=1: ") == said.count("error: batch.foo=2: ") == 1
    assert said.endswith("Nothing was measured: all 2 jobs were refused.\n")
    assert not [path for path in (tmp_path / "sweep").glob("*") if path.name.isdigit()]


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_a_folder_that_cannot_be_made_is_told_in_one_paragraph(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: list[str]
) -> None:
    place = tmp_path / ("sweep" if mode else "run")
    place.write_text("a file stands in the way")
    assert cli(*mode, "tracking=none") == 2
    said = "".join(capfd.readouterr())
    assert said.count("error: ") == 1 and len(said.splitlines()) == 1
    assert str(place) in said and ("hydra.sweep.dir" if mode else "hydra.run.dir") in said
    assert "are kept" not in said


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", True)])
def test_only_a_1_asks_for_the_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], value: str, expected: bool
) -> None:
    def broken(*arguments: object, **_: object) -> Report:
        raise RuntimeError("a defect")

    monkeypatch.setattr(job, "launch", broken)
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    assert cli("tracking=none") == 1
    said = capfd.readouterr().err
    assert "error: RuntimeError: a defect" in said and ("Traceback" in said) == expected


def test_what_was_held_in_a_sweep_of_other_processes_is_written_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def app(*, end: type[BaseException] | None = None) -> None:
        print("a warning about http://amy:s3cret@host", file=sys.stderr)
        if end is not None:
            raise end

    assert command._run(app, Held()) == 0
    assert capsys.readouterr().err == "a warning about http://***@host\n"
    assert command._run(functools.partial(app, end=KeyboardInterrupt), Held()) == 130
    assert capsys.readouterr().err == "a warning about http://***@host\ninterrupted\n"


def test_help_teaches_and_the_parent_is_light(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    told = run("-m", "harness", "--help")
    for word in ("precision: bf16, bf16_qint8, fp32, fp32_qint8", "+experiment=quickstart", "Exit status"):
        assert word in told
    code = (
        "import sys, json, harness.__main__, harness.log; "
        "heavy = ('torch', 'transformers', 'mlflow', 'scipy.stats'); "
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    assert json.loads(run("-c", code)) == []


@pytest.mark.parametrize(
    "wrong", [["-m", "baseline=ipex-fp32"], ["baseline=op-fp32"], ["-m", "table.columns=[foo]"]]
)
def test_a_baseline_that_is_no_job_and_an_unknown_column_are_refused_before_anything_runs(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    monkeypatch.setattr(job, "launch", None)
    assert cli(*wrong, "precision=fp32", "tracking=none") == 2
    assert capfd.readouterr().err.startswith(f"error: {wrong[-1].partition('=')[0]}=")
