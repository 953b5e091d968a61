import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient

from harness.ask.schema import ROOT
from harness.sinks import mlflow_process
from harness.sinks.mlflow_store import open_store

OPEN_A_SWEEP = """
import sys, time
from harness.sinks.mlflow_sink import open_sweep
from harness.sinks.mlflow_store import open_store
print(open_sweep(open_store(sys.argv[1], "question"), "an-id", "sweep"), flush=True)
time.sleep(600)
"""


def test_a_run_whose_process_was_killed_is_ended_by_the_next_start_and_a_living_ones_is_not(
    store_uri: str,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OPEN_A_SWEEP, store_uri], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            run_id = process.stdout.readline().strip()
            client = MlflowClient(tracking_uri=store_uri)
            open_store(store_uri, "another question")
            assert client.get_run(run_id).info.status == "RUNNING"
        finally:
            process.kill()
    open_store(store_uri, "another question")
    run = client.get_run(run_id)
    assert run.info.status == "FAILED" and "harness.log" in run.data.tags["failure"]


def test_only_runs_of_this_machine_are_ended(store_uri: str) -> None:
    store = open_store(store_uri, "question")
    mine = mlflow_process.own_tags()
    gone = mine["process"].replace(f"pid={os.getpid()}", "pid=4194305")
    runs = {
        name: store.client.create_run(store.experiment_id, start_time=int(time.time() * 1000), tags=tags)
        for name, tags in {
            "mine": mine,
            "gone": {**mine, "process": gone},
            "elsewhere": {"host": f"not-{socket.gethostname()}", "process": gone},
            "nobody's": {},
        }.items()
    }
    assert mlflow_process.end_runs_of_gone_processes(store.client) == [runs["gone"].info.run_id]


def test_what_is_known_of_a_process() -> None:
    me = mlflow_process.own_tags()["process"]
    parts = dict(part.split("=", 1) for part in me.split())
    assert not mlflow_process.is_gone(me)
    assert mlflow_process.is_gone(me.replace(f"started={parts['started']}", "started=1")), (
        "the number was reused"
    )
    assert mlflow_process.is_gone(me.replace(parts["boot"], "an-earlier-boot"))
    assert not mlflow_process.is_gone(me.replace(parts["pid_namespace"], "pid:[1]")), "another container"
    assert not mlflow_process.is_gone("") and not mlflow_process.is_gone("pid=x")
    assert Path("/proc/self/stat").is_file()
