"""What a person sees: names are shown as they are."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from harness_fixtures import a_spec
from rich.console import Console

from harness.sinks import console as shown
from harness.values.report import Accuracy, Report, Timing
from harness.values.spec import BackendSpec

NAMES = ["my[best]ckpt", "x[/y]", "[bold]", "c\\[d"]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def timed_report(backend: str) -> Report:
    spec = dataclasses.replace(a_spec(), backend=BackendSpec(backend, "eager" if backend == "hf" else "jit"))
    timing = Timing(987654, 1.0, 2, 8, {"p50": 12345.678}, 123456.789, 16.0)
    accuracy = Accuracy(100, accuracy=0.5, f1=0.25, agreement=0.125, top10=0.75)
    return Report(spec, "finished", timing=timing, accuracy=accuracy)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_markup(console: Console, name: str) -> None:
    shown.announce(console, Path("/some") / name, f"op-fp32, {name}")
    assert text(console) == f"op-fp32, {name}  -> /some/{name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_nor_in_the_table(console: Console, name: str) -> None:
    spec = a_spec()
    other = dataclasses.replace(spec, model=dataclasses.replace(spec.model, name=name))
    shown.summary(console, [Report(spec, "finished"), Report(other, "finished")])
    assert any(line.rstrip().endswith(f" {name}") for line in text(console).splitlines())


def test_the_command_can_be_copied_where_the_path_has_a_space(console: Console) -> None:
    shown.next_steps(console, Path("/some/run"), "sqlite:////my projects/mlflow.db")
    assert "mlflow ui --backend-store-uri 'sqlite:////my projects/mlflow.db'\n" in text(console)


def test_a_narrow_terminal_leaves_out_columns_and_says_so() -> None:
    narrow = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    shown.summary(narrow, [timed_report("hf"), timed_report("op")])
    said = text(narrow)
    (left_out,) = [line for line in said.splitlines() if line.startswith("Left out")]
    assert "F1" in left_out and "calls" in left_out
    table_lines = said.split("Left out")[0].splitlines()
    assert max(len(line) for line in table_lines[1:]) <= 60
    assert "…" not in said and "123456.8" in said


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    pipe = Console(file=io.StringIO())
    shown.summary(pipe, [timed_report("hf"), timed_report("op")])
    assert "F1" in text(pipe) and "Left out" not in text(pipe) and "…" not in text(pipe)


def test_what_went_wrong_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    shown.error("batch.size=0: is less than 1.")
    assert capsys.readouterr() == ("", "error: batch.size=0: is less than 1.\n")
