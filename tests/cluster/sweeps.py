"""Sends sweeps through Slurm to an MLflow server on PostgreSQL, kills it, and looks into the database.

Called by run.sh, which has started Slurm and PostgreSQL. Every check is an assert: run it without -O.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = ("hf-fp32", "op-fp32", "op-bf16")
SMALL = ("model=minilm", "batch=1", "batch.seq_len=16", "run_time.iterations=20", "data.samples=8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    options = parser.parse_args()
    server = Server(options.folder, options.port, options.database)
    server.start()
    a_sweep_lands(server)
    a_killed_server_costs_nothing(server)
    server.kill()
    print("passed")
    return 0


class Server:
    """An MLflow server in a session of its own, so that it dies at once with all of its processes."""

    def __init__(self, folder: Path, port: int, database: str) -> None:
        self.folder, self.port, self.database = folder, port, database
        self.uri = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        (self.folder / "mlflow.pid").write_text(str(self.process.pid))
        wait_for(self.answers, 180, "the MLflow server")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        (self.folder / "mlflow.pid").unlink()

    def query(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        connection = psycopg2.connect(self.database.replace("+psycopg2", ""))
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())


def a_sweep_lands(server: Server) -> None:
    print("a sweep through Slurm lands in PostgreSQL")
    folder = server.folder / "first"
    with sweep(server, folder, "first") as process:
        output = process.communicate()[0]
    print(output)
    assert process.returncode == 0, f"exit status {process.returncode}"
    landed(server, "first")
    jobs = slurm_jobs(folder)
    assert len(jobs) == len(CONTENDERS), jobs
    for job in jobs:
        told = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
        ).stdout
        assert "JobState=COMPLETED" in told, told
        assert "OverSubscribe=NO" in told, f"not alone on its node: {told}"


def a_killed_server_costs_nothing(server: Server) -> None:
    print("an MLflow server that is killed in the middle costs no result")
    folder = server.folder / "second"
    with sweep(server, folder, "second") as process:
        wait_for(lambda: finished(server, "second") >= 1, 300, "the first job of the sweep")
        server.kill()
        output = process.communicate()[0]
    print(output)
    assert process.returncode == 1, f"exit status {process.returncode}"
    assert f"python -m harness.log {folder}" in output
    for index in range(len(CONTENDERS)):
        assert '"status": "finished"' in (folder / str(index) / "report.json").read_text()
    left = server.query("select run_uuid from runs where status = 'RUNNING'")
    assert left, "the server died too late: nothing was unfinished"
    server.start()
    for _ in range(2):  # the second time changes nothing
        done = subprocess.run(
            [sys.executable, "-m", "harness.log", str(folder)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        landed(server, "second")


def landed(server: Server, experiment: str) -> None:
    """The parent and each of its children are there once, FINISHED, with what was measured."""
    rows = server.query(
        "select r.run_uuid, r.status, p.value, c.value from runs r join experiments e using (experiment_id) "
        "left join tags p on p.run_uuid = r.run_uuid and p.key = 'mlflow.parentRunId' "
        "left join tags c on c.run_uuid = r.run_uuid and c.key = 'contender' "
        "where e.name = %s and r.lifecycle_stage = 'active'",
        experiment,
    )
    (parent,) = [run for run, _, above, _ in rows if above is None]
    children = {contender: run for run, _, above, contender in rows if above == parent}
    assert sorted(children) == sorted(CONTENDERS) and len(rows) == 1 + len(CONTENDERS), rows
    assert {status for _, status, _, _ in rows} == {"FINISHED"}, rows
    for contender, run in children.items():
        metrics = {key for (key,) in server.query("select key from latest_metrics where run_uuid = %s", run)}
        expected = {"throughput_sps", "latency_ms/p50", "accuracy", "agreement", "speedup", "load_s"}
        assert expected <= metrics, f"{contender}: {expected - metrics} missing"
        models = server.query("select name from logged_models where source_run_id = %s", run)
        assert models == [(f"minilm {contender}",)], models
    assert not server.query("select run_uuid from runs where status = 'RUNNING'")
    print(f"  {experiment}: parent and {', '.join(children)} are FINISHED, with their metrics")


def finished(server: Server, experiment: str) -> int:
    statement = (
        "select r.run_uuid from runs r join experiments e using (experiment_id) "
        "where e.name = %s and r.status = 'FINISHED'"
    )
    return len(server.query(statement, experiment))


@contextlib.contextmanager
def sweep(server: Server, folder: Path, experiment: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable, "-m", "harness", "-m", "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=cpu",
        f"contender={','.join(CONTENDERS)}", *SMALL, "tracking=server", f"tracking.uri={server.uri}",
        f"tracking.experiment={experiment}", f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def slurm_jobs(folder: Path) -> list[str]:
    """Slurm's numbers of a sweep's jobs: submitit names their files by them."""
    return sorted({path.name.split("_submitted")[0] for path in folder.glob(".submitit/*/*_submitted.pkl")})


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
