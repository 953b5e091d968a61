"""What a person sees: names are shown as they are."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from harness_fixtures import a_spec
from rich.console import Console

from harness.sinks import console as shown
from harness.values.report import Report

NAMES = ["my[best]ckpt", "x[/y]", "[bold]", "c\\[d"]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_markup(console: Console, name: str) -> None:
    shown.announce(console, Path("/some") / name, f"op-fp32, {name}")
    assert text(console) == f"op-fp32, {name}  -> /some/{name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_nor_in_the_table(console: Console, name: str) -> None:
    spec = a_spec()
    other = dataclasses.replace(spec, model=dataclasses.replace(spec.model, name=name))
    shown.summary(console, [Report(spec, "finished"), Report(other, "finished")])
    assert f" {name} " in text(console)


def test_the_command_can_be_copied_where_the_path_has_a_space(console: Console) -> None:
    shown.next_steps(console, Path("/some/run"), "sqlite:////my projects/mlflow.db")
    assert "mlflow ui --backend-store-uri 'sqlite:////my projects/mlflow.db'\n" in text(console)
