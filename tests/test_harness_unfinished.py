"""Kill -9, Ctrl-C and a full disk: nothing is left running, and nothing that was finished is lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness_crash import start, wait_until, workers_of
from harness_fixtures import STUB, a_spec
from mlflow import MlflowClient
from mlflow.entities import Run

from harness import log
from harness.ask.schema import ROOT
from harness.run import job, launch, unfinished
from harness.values import reserve
from harness.values.errors import UserError
from harness.values.plain import write_json, write_text
from harness.values.report import Report

Cli = Callable[..., int]


def runs(store_uri: str) -> list[Run]:
    client = MlflowClient(tracking_uri=store_uri)
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return list(found)


# --- kill -9 of the parent ---------------------------------------------------------------------------------


def test_after_kill_9_of_a_run_the_worker_ends_and_the_next_start_settles_it(
    cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    parent = start("tracking.kind=none", f"hydra.run.dir={folder}", stub="hang")
    wait_until(lambda: (folder / "report.json").exists() and workers_of(folder))
    with pytest.raises(UserError, match="still measured"):
        unfinished.settle(folder)
    parent.kill()
    parent.wait()
    wait_until(lambda: not workers_of(folder), seconds=20)
    assert Report.read(folder).status == "running"
    assert cli("tracking=none") == 0
    report = Report.read(folder)
    assert report.failure is not None and report.failure.kind == "killed"
    assert "during phase measure" in report.failure.message and report.phases.load_s == 0.25
    assert (folder / "report.md").is_file()
    assert not (folder / "running.json").exists() and not (folder / "reserve").exists()


def test_after_kill_9_of_a_sweep_nothing_runs_on_and_log_completes_it(
    cli: Cli, store_uri: str, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    arguments = ("-m", "batch=1,4", f"hydra.sweep.dir={folder}", f"tracking.uri={store_uri}")
    # The first job finishes, the second hangs: the stub hangs for batches of 4.
    parent = start(*arguments, stub="hang-at-4")
    wait_until(lambda: (folder / "1/report.json").exists() and workers_of(folder / "1"))
    parent.kill()
    parent.wait()
    assert "RUNNING" in [run.info.status for run in runs(store_uri)]
    wait_until(lambda: not workers_of(folder / "1"), seconds=20)

    assert cli(f"tracking.uri={store_uri}") == 0
    assert "RUNNING" not in [run.info.status for run in runs(store_uri)]

    for _ in range(2):  # the second time it changes nothing
        assert log.main([str(folder)]) == 0
        found = [run for run in runs(store_uri) if run.data.tags.get("mlflow.parentRunId")]
        assert sorted(run.info.status for run in found) == ["FAILED", "FINISHED"]
        (parent_run,) = [run for run in runs(store_uri) if "sweep_id" in run.data.tags]
        assert parent_run.info.status == "FAILED"
    assert Report.read(folder / "0").status == "finished"
    failure = Report.read(folder / "1").failure
    assert failure is not None and failure.kind == "killed"


def test_ctrl_c_in_a_sweep_ends_with_130_and_keeps_what_is_measured(store_uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = start(
        "-m", "batch=1,4,8", f"hydra.sweep.dir={folder}", f"tracking.uri={store_uri}", stub="hang-at-4"
    )  # fmt: skip
    wait_until(lambda: (folder / "1/report.json").exists() and workers_of(folder / "1"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert not workers_of(folder / "1") and not (folder / "2").exists()
    assert sorted(run.info.status for run in runs(store_uri)) == ["FAILED", "FAILED", "FINISHED"]
    assert [Report.read(folder / job).status for job in "01"] == ["finished", "failed"]
    assert (folder / "sweep.md").is_file() and "Traceback" not in said


# --- what is judged as unfinished --------------------------------------------------------------------------


def test_a_run_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    Report(a_spec()).write(tmp_path / "run")
    write_json(tmp_path / "run/running.json", {"host": "elsewhere", "process": "pid=1 boot=x"})
    with pytest.raises(UserError, match="still measured on elsewhere"):
        unfinished.settle(tmp_path / "run")
    assert unfinished.settle_all(unfinished.marked(tmp_path, 1)) == []
    assert Report.read(tmp_path / "run").status == "running"


def test_a_killed_run_that_had_not_begun_to_report_has_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    a_spec().write(folder / "spec.json")
    unfinished.mark(folder)
    monkeypatch.setattr(unfinished, "is_gone", lambda process: True)
    assert unfinished.settle_all(unfinished.marked(tmp_path, 1)) == [folder]
    assert Report.read(folder).failure is not None and Report.read(folder).spec == a_spec()


def test_a_run_that_had_finished_stays_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Report(a_spec(), status="finished").write(tmp_path)
    unfinished.mark(tmp_path)
    monkeypatch.setattr(unfinished, "is_gone", lambda process: True)
    unfinished.settle(tmp_path)
    assert Report.read(tmp_path).status == "finished" and not (tmp_path / "running.json").exists()


@pytest.mark.parametrize(
    "place", ["runs/then", "sweeps/then/3", "sweeps/then-commits/0-abc/3"], ids=["run", "sweep", "commits"]
)
def test_the_next_start_finds_what_was_killed_in_the_usual_places(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "checkout/outputs" / place
    folder.mkdir(parents=True)
    a_spec().write(folder / "spec.json")
    unfinished.mark(folder)
    monkeypatch.setattr(job, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(unfinished, "is_gone", lambda process: True)
    assert cli("tracking=none") == 0
    failure = Report.read(folder).failure
    assert failure is not None and failure.kind == "killed"


# --- a full disk -------------------------------------------------------------------------------------------


def test_a_result_is_written_into_the_reserved_space(tmp_path: Path) -> None:
    tries: list[bool] = []

    def write() -> None:
        tries.append((tmp_path / "reserve").exists())
        if tries[-1]:
            raise OSError(errno.ENOSPC, "No space left on device")

    reserve.hold(tmp_path)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= reserve.RESERVE_BYTES
    reserve.written(tmp_path, write)
    assert tries == [True, False]


def test_without_a_reserve_a_full_disk_is_told(tmp_path: Path) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.json")

    with pytest.raises(OSError, match="No space left") as caught:
        reserve.written(tmp_path, write)
    told = reserve.told(caught.value)
    assert "report.json: cannot be written (No space left on device)" in told and "Make room" in told
    assert reserve.is_full(caught.value) and not reserve.is_full(OSError(errno.ENOENT, "x"))


SMALL_DISK = """
import errno, os, sys
from pathlib import Path
from harness.run import launch
from harness.values import reserve
from harness.values.report import Report
from harness.values.spec import RunSpec
folder, spec = Path(sys.argv[1]), RunSpec.read(Path(sys.argv[2]))
worker = sys.argv[3].split("|")
report = launch.launch(spec, folder / "run", worker)   # fills the disk, and finishes
assert report.status == "finished", report.failure
assert Report.read(folder / "run").status == "finished"
assert not (folder / "run/running.json").exists()
try:
    launch.launch(spec, folder / "next", worker)       # there is no room even to begin
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("it measured on a full disk")
(folder / "filler").unlink()
assert launch.launch(spec, folder / "next", worker).status == "finished"
print("kept")
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[list[str]]:
    """A command prefix under which `tmp_path/disk` is a file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=3m tmpfs "{disk}" && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (unshare)")
    yield prefix


def test_a_disk_that_fills_up_costs_no_finished_result(
    small_disk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_spec().write(tmp_path / "spec.json")
    done = subprocess.run(
        [*small_disk, sys.executable, "-c", SMALL_DISK, str(tmp_path / "disk"), str(tmp_path / "spec.json"),
         "|".join(STUB)],
        env=os.environ | {"STUB": "fill", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "kept"), done.stderr


def test_a_job_that_cannot_be_written_fails_in_one_paragraph(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "reserve")

    monkeypatch.setattr(reserve, "hold", full)
    assert cli("tracking=none") == 1
    said = "".join(capfd.readouterr())
    assert "cannot be written (No space left on device)" in said and "Traceback" not in said
    failure = Report.read(tmp_path / "run").failure
    assert failure is not None and failure.kind == "disk"


def test_an_atomic_write_leaves_the_old_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "report.json", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "report.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_a_worker_that_runs_elsewhere_than_asked_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.values.spec import HostSpec

    monkeypatch.setenv("STUB", "astray")
    report = launch.launch(a_spec(host=HostSpec(threads=1)), tmp_path, STUB)
    assert report.failure is not None and report.failure.kind == "placement"
    assert "host.threads=1: 4 threads did the work" in report.failure.message
    assert report.timing is not None, "what was measured is kept"
    assert Report.read(tmp_path) == report
