"""What make says before it makes anything: a Python that is too old, an environment of another place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What make looks at first, in a folder with a space in its name."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "CMakeLists.txt", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_that_is_too_old_is_told_in_one_sentence(checkout: Path, tmp_path: Path) -> None:
    old = program(tmp_path / "python3.10", '[ "$1" = -V ] && echo Python 3.10.13 || exit 1')
    done = make(checkout, "run", f"PYTHON={old}")
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert f"PYTHON={old} is Python 3.10.13, and the harness needs 3.11 or newer" in sentence
    assert "make run PYTHON=python3.11" in sentence and not (checkout / ".venv").exists()


def test_a_python_that_makes_no_environments_is_told_with_the_package(checkout: Path, tmp_path: Path) -> None:
    bare = program(tmp_path / "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = make(checkout, "test", f"PYTHON={bare}")
    assert done.returncode == 2 and "apt-get install python3-venv" in done.stderr


def environment(checkout: Path, home: Path) -> None:
    """An environment that was made for the checkout in `home`."""
    packages = checkout / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "bert_op_checkout.pth").write_text(f"{home}/op\n{home}\n")


def test_an_environment_that_came_along_from_another_place_is_not_used(checkout: Path) -> None:
    environment(checkout, Path("/another place"))
    done = make(checkout, "--dry-run", "run")
    assert done.returncode == 2
    assert f"made for the checkout in /another place, and this one is in {checkout}" in done.stderr
    assert make(checkout, "distclean").returncode == 0 and not (checkout / ".venv").exists()


def test_its_own_is_used(checkout: Path) -> None:
    environment(checkout, checkout)
    assert make(checkout, "--dry-run", "run").returncode == 0


def test_a_space_in_the_path_is_quoted(checkout: Path) -> None:
    said = make(checkout, "--dry-run", "test").stdout
    for line in said.splitlines():
        assert str(checkout) not in line or f'"{checkout}/' in line or f'"{checkout}"' in line, line
