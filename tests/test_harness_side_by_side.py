"""Jobs of a sweep at the same time: what is refused, and that all of them land in the store."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_fixtures import a_spec
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient

from harness.ask.schema import ROOT, Tracking, register
from harness.run import side_by_side
from harness.sinks import record
from harness.values.errors import UserError
from harness.values.report import Report, Timing
from harness.values.spec import BatchSpec

JOBLIB, LOCAL = side_by_side.LAUNCHERS


@pytest.mark.parametrize("launcher", [JOBLIB, LOCAL])
@pytest.mark.parametrize(
    "overrides",
    [
        ["precision=fp32,bf16"],
        ["precision=glob(*)"],
        ["repetition=0,1,2"],
        ["host.cores=0,1", "precision=fp32,bf16"],
        ['host.cores="0-3","3-5"'],
        ["host.cores=0,null"],
        ["host.cores=0-3", "precision=fp32,bf16"],
        ["host.numa=0,0"],
        ["measure=all,accuracy", "precision=fp32"],
    ],
    ids=" ".join,
)
def test_timings_that_would_share_cores_are_refused(launcher: str, overrides: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        side_by_side.check({"_target_": launcher}, overrides)
    assert "host.cores" in str(caught.value) and "measure=accuracy" in str(caught.value)


@pytest.mark.parametrize(
    ("launcher", "overrides"),
    [
        ({"_target_": JOBLIB}, ['host.cores="0-3","4-7"', "model=minilm"]),
        ({"_target_": JOBLIB}, ["host.numa=0,1"]),
        ({"_target_": JOBLIB}, ["precision=fp32,bf16", "measure=accuracy"]),
        ({"_target_": JOBLIB}, ["precision=fp32,bf16", "measure.throughput=false"]),
        ({"_target_": JOBLIB, "n_jobs": 1}, ["precision=fp32,bf16"]),
        ({"_target_": LOCAL}, ["precision=fp32"]),
        ({"_target_": side_by_side.SLURM}, ["precision=fp32,bf16"]),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, ["precision=fp32,bf16"]),
    ],
)
def test_what_cannot_disturb_itself_runs(launcher: dict[str, object], overrides: list[str]) -> None:
    side_by_side.check(launcher, overrides)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"exclusive": True}),
        (
            ["+hydra.launcher.additional_parameters.reservation=bench"],
            {"exclusive": True, "reservation": "bench"},
        ),
        (["+hydra.launcher.additional_parameters.exclusive=false"], {}),
        (["measure=accuracy"], {}),
    ],
)
def test_a_timing_job_has_its_node_for_itself(given: list[str], expected: dict[str, object]) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config", overrides=["hydra/launcher=submitit_slurm", *given], return_hydra_config=True
        )
    config.hydra.overrides.task = [text for text in given if text.startswith("measure")]
    side_by_side.arrange(config)
    assert config.hydra.launcher.additional_parameters == expected


def test_eight_jobs_that_meet_a_fresh_store_at_once_all_land(tmp_path: Path) -> None:
    folder, uri = tmp_path / "sweep", f"sqlite:///{tmp_path}/store/mlflow.db"
    tracking = Tracking(uri=uri, experiment="question")
    record.Sweep("an-id", "sweep", tracking, complete=True).write(folder)
    for index in range(8):
        timing = Timing(9, 1.0, 1, 8, {"p50": 1.0}, 100.0 + index, 8.0)
        report = Report(a_spec(batch=BatchSpec(index + 1, 8)), "finished", timing=timing)
        report.write(folder / str(index))
        (folder / str(index) / ".hydra").mkdir()
    together = multiprocessing.get_context("fork")
    barrier = together.Barrier(8)

    def log(index: int) -> None:
        barrier.wait(60)
        record.log_run(folder / str(index), tracking)

    processes = [together.Process(target=log, args=[index]) for index in range(8)]
    _all(processes, lambda process: process.start())
    _all(processes, lambda process: process.join(120))
    assert [process.exitcode for process in processes] == [0] * 8
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("question").experiment_id])
    assert sorted(run.data.metrics["throughput_sps"] for run in runs) == [100.0 + index for index in range(8)]
    assert {run.info.status for run in runs} == {"FINISHED"}


def _all(processes: list, act: Callable) -> None:
    for process in processes:
        act(process)
