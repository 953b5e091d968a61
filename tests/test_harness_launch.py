import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from harness_fixtures import STUB, a_spec

from harness.run import launch as launching
from harness.run.launch import launch
from harness.values.report import Report
from harness.values.spec import HostSpec


def stubbed(monkeypatch: pytest.MonkeyPatch, folder: Path, end: str, **changes: object) -> Report:
    monkeypatch.setenv("STUB", end)
    return launch(a_spec(**changes), folder, STUB)


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ("crash", "crashed", "SIGSEGV during phase measure"),
        ("kill", "killed", "SIGKILL during phase measure"),
        ("exit", "crashed", "exit status 7 during phase measure"),
        ("fail", "user", "no such tier"),
    ],
)
def test_a_worker_that_ends_badly_is_a_failed_report_that_keeps_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, kind: str, words: str
) -> None:
    report = stubbed(monkeypatch, tmp_path, end)
    assert report.status == "failed" and report.failure is not None
    assert report.failure.kind == kind and words in report.failure.message
    assert report.phases.load_s == 0.25 and report.accuracy is not None
    assert Report.read(tmp_path) == report


def test_a_worker_that_says_nothing_is_told_with_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = stubbed(monkeypatch, tmp_path, "silent")
    assert report.failure is not None and "exit status 3 before its first phase" in report.failure.message


def test_a_report_of_an_earlier_run_is_not_taken_for_this_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert stubbed(monkeypatch, tmp_path, "finish").status == "finished"
    assert stubbed(monkeypatch, tmp_path, "silent").status == "failed"


def test_time_that_runs_out_stops_the_worker_and_the_parent_sleeps_till_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, worked = time.monotonic(), time.thread_time()
    report = stubbed(monkeypatch, tmp_path, "hang", host=HostSpec(timeout_seconds=5.0))
    assert time.monotonic() - before < 30 and time.thread_time() - worked < 0.3
    assert report.failure is not None and report.failure.kind == "timeout"
    assert "host.timeout_seconds=5" in report.failure.message and report.phases.load_s == 0.25


def test_an_interrupt_is_passed_on_after_the_report_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*arguments: object) -> bool:
        deadline = time.monotonic() + 20
        while not (tmp_path / "report.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stubbed(monkeypatch, tmp_path, "hang")
    report = Report.read(tmp_path)
    assert report.failure is not None and report.failure.kind == "interrupted"
    assert report.phases.load_s == 0.25


def test_cores_and_threads_are_there_before_the_worker_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    core = max(os.sched_getaffinity(0))
    mine = os.sched_getaffinity(0)
    report = stubbed(monkeypatch, tmp_path, "finish", host=HostSpec(cores=str(core)))
    assert report.identity.affinity == (core,) and report.identity.threads == 1
    assert os.sched_getaffinity(0) == mine


def test_the_worker_gets_no_tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BERT_OP_TRACKING_URI", "http://user:secret@host")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("BERT_OP_MAX_ISA", "portable")
    assert stubbed(monkeypatch, tmp_path, "finish").identity.env == {"BERT_OP_MAX_ISA": "portable"}


@pytest.fixture
def two_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")


def test_instances_share_the_cores_and_add_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_cores: None
) -> None:
    report = stubbed(monkeypatch, tmp_path, "finish", host=HostSpec(cores="0,1", instances=2))
    assert report.status == "finished" and report.timing is not None
    assert report.timing.throughput_sps == sum(report.instances) and len(report.instances) == 2
    assert report.timing.count == len(np.load(tmp_path / "samples.npz")["latency_ms"]) == 200
    parts = [Report.read(tmp_path / f"instance-{index}") for index in range(2)]
    assert [part.identity.affinity for part in parts] == [(0,), (1,)]
    assert [part.spec.measure.accuracy for part in parts] == [True, False]
    assert report.spec.instance == 0 and report.spec.barrier is None


def test_a_failed_instance_fails_the_job_by_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_cores: None
) -> None:
    killer = threading.Thread(target=_kill_when_ready, args=[tmp_path / "instance-1"])
    killer.start()
    report = stubbed(monkeypatch, tmp_path, "hang", host=HostSpec(cores="0,1", instances=2))
    killer.join()
    assert report.failure is not None and report.failure.kind == "killed" and report.timing is None
    beside = Report.read(tmp_path / "instance-0").failure
    assert beside is not None and beside.kind == "stopped"


def test_an_interrupt_leaves_a_report_of_all_instances_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_cores: None
) -> None:
    def interrupted(*arguments: object) -> bool:
        deadline = time.monotonic() + 20
        while not (tmp_path / "instance-0/report.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stubbed(monkeypatch, tmp_path, "hang", host=HostSpec(cores="0,1", instances=2))
    report = Report.read(tmp_path)
    assert report.status == "failed" and report.failure is not None
    assert report.failure.kind == "interrupted" and report.timing is None
    assert report.spec.host.instances == 2 and report.spec.barrier is None
    assert report.phases.load_s == 0.25, "what the first instance had is kept"
    assert not (tmp_path / "running.json").exists()


def test_an_interrupt_before_the_first_process_leaves_a_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching.reserve, "hold", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stubbed(monkeypatch, tmp_path, "finish")
    failure = Report.read(tmp_path).failure
    assert failure is not None and failure.kind == "interrupted"
    assert not (tmp_path / "running.json").exists()


def test_a_wait_may_take_longer_than_poll_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        assert launching._wait([process], 3_000_000)
    monkeypatch.setattr(launching, "LONGEST_POLL_MS", 10)
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not launching._wait([process], 0.05), "several waits, and then time is up"
        process.kill()
    with subprocess.Popen(["sleep", "0.1"]) as process:
        assert launching._wait([process], 60)


def _kill_when_ready(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.1)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(folder / "spec.json").encode() in words and (folder / "report.json").exists():
                os.kill(int(process.name), 9)
                return
