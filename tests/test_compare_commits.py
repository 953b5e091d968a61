"""Comparing commits: what is refused before anything is built, how a build is told, and that builds take
turns.
"""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from compare_reports import a_report
from rich.console import Console

from harness.compare import commits
from harness.compare.__main__ import main
from harness.compare.commits import Build, BuildError
from harness.values.errors import UserError
from harness.values.report import Failure, Report
from harness.values.spec import RunSpec
from harness.worker.of_build import Finder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small git checkout in place of this one; its only commit has a CMakeLists.txt that does not work."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "CMakeLists.txt").write_text('message(FATAL_ERROR "no such kernel")\n')
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    monkeypatch.setattr(commits.schema, "ROOT", root)
    monkeypatch.setattr(commits, "BUILDS", root / "outputs" / "builds")
    return root


def test_a_revision_is_a_commit_or_an_error(checkout: Path) -> None:
    assert len(commits.commit("HEAD")) == 40
    for wrong in ("no-such-branch", "--help", "HEAD:CMakeLists.txt"):
        with pytest.raises(UserError, match="no commit"):
            commits.commit(wrong)


def test_a_failed_build_says_why_and_leaves_no_worktree(checkout: Path) -> None:
    quiet = Console(file=io.StringIO())
    with pytest.raises(BuildError, match="HEAD could not be built: cmake") as caught:
        commits.build("HEAD", commits.commit("HEAD"), quiet)
    assert "build.log" in str(caught.value) and "\n" not in str(caught.value)
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 1
    assert "no such kernel" in next(checkout.rglob("build.log")).read_text()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["precision=fp99"], "precision=fp99"),
        (["batch=1,4"], "batch"),
        (["backend=hf"], "backend"),
        (["repetitions=0"], "repetitions"),
        (["batch.size=abc"], "batch.size"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_building(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        commits.to_spec(overrides)


def test_by_default_the_timing_is_repeated_ten_times() -> None:
    spec = commits.to_spec(["precision=bf16", "batch=1"])
    assert (spec.repetitions, spec.measure.accuracy, spec.model.name) == (10, False, "minilm")
    assert (spec.precision, spec.batch.size) == ("bf16", 1)
    assert commits.to_spec(["repetitions=3"]).repetitions == 3


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Two revisions that need no building, the second a fifth slower; the order in which they are
    measured.
    """
    order: list[str] = []

    def launch(spec: RunSpec, folder: Path, worker: Sequence[str]) -> Report:
        order.append(worker[-2])
        noise = 1 + 0.001 * (len(order) % 7)
        report = a_report(noise * (12.0 if worker[-2] == "slow" else 10.0), at=5.0 * len(order))
        if "broken" in worker:
            report = dataclasses.replace(report, status="failed", failure=Failure("error", "It broke."))
        return dataclasses.replace(report, spec=spec)

    monkeypatch.setattr(commits, "launch", launch)
    monkeypatch.setattr(commits, "commit", lambda revision: revision * 10)
    monkeypatch.setattr(Build, "worker", property(lambda self: ("worker", self.revision, "library")))
    monkeypatch.setattr(commits, "build", lambda rev, full, console: Build(rev, full, tmp_path, tmp_path))
    return order


def test_builds_take_turns_and_the_slower_one_is_found(
    builds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--commits", "fast", "slow", "precision=bf16"]) == 0
    assert builds[:6] == ["fast", "slow", "slow", "fast", "fast", "slow"] and len(builds) == 20
    said = capsys.readouterr().out
    assert "\nslower\n" in said and "10 rounds in which they took turns" in said


def test_a_build_that_does_not_run_ends_with_1(builds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--commits", "fast", "broken"]) == 1
    assert "broken could not be measured: It broke." in " ".join(capsys.readouterr().err.split())


def test_the_worker_of_a_build_takes_its_op_and_no_other(tmp_path: Path) -> None:
    package = tmp_path / "op" / "bert_op"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "_policy.py").write_text("")
    finder = Finder(tmp_path / "op", tmp_path / "build")
    spec = finder.find_spec("bert_op")
    assert spec is not None and spec.origin == str(package / "__init__.py")
    inner = finder.find_spec("bert_op._policy", [str(package)])
    assert inner is not None and inner.origin == str(package / "_policy.py")
    assert finder.find_spec("torch") is None and finder.find_spec("bert_op_else") is None
    with pytest.raises(ModuleNotFoundError):
        finder.find_spec("bert_op._families", [str(package)])


def test_the_worker_of_a_build_says_how_it_is_called() -> None:
    command = [sys.executable, "-m", "harness.worker.of_build", "only-one"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 2 and "usage" in done.stderr
