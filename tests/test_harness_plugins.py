"""A backend in a package of its own: the one of docs/harness.md, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.values import plugins
from harness.values.plain import read_json

ROOT = Path(__file__).parents[1]


def installed(folder: Path, **files: str) -> Path:
    """The package as pip would leave it: its module, and what it says of itself."""
    page = (ROOT / "docs" / "harness.md").read_text()
    section = page.split("## A backend of your own")[1].split("\n## ")[0]
    told = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", section, re.DOTALL)) | files
    project = tomllib.loads(told["pyproject.toml"])["project"]
    (folder / "tiny_backend.py").write_text(told["tiny_backend.py"])
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"][plugins.BACKEND_GROUP]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{plugins.BACKEND_GROUP}]", *lines, ""]))
    return folder


def harness(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(packages), str(ROOT), str(ROOT / "op")])
    command = [sys.executable, "-m", "harness", *arguments, "tracking=none", "run_time.iterations=12"]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_it_is_found_and_measured(tmp_path: Path) -> None:
    packages = installed(tmp_path)
    folder = tmp_path / "run"
    said = harness(packages, "backend=tiny", "precision=fp32", "batch=1", f"hydra.run.dir={folder}")
    assert said.returncode == 0, said.stderr
    assert "tiny-fp32" in said.stdout
    report = read_json(folder / "report.json")
    assert report["timing"]["count"] == 12 and report["accuracy"]["agreement"] == 1.0
    assert "tiny-backend" in str(report["identity"])


def test_what_it_refuses_is_told_as_it_tells_it(tmp_path: Path) -> None:
    said = harness(installed(tmp_path), "backend=tiny", "precision=bf16", f"hydra.run.dir={tmp_path}/run")
    assert (
        said.returncode == 2 and "backend=tiny has fp32 only. Use precision=fp32" in said.stdout + said.stderr
    )


@pytest.mark.parametrize(
    ("module", "problem"),
    [("import no_such_module", "ModuleNotFoundError"), ("PACKAGES = ()", "has no prepare(work)")],
)
def test_a_broken_one_names_its_package(tmp_path: Path, module: str, problem: str) -> None:
    packages = installed(tmp_path, **{"tiny_backend.py": module})
    said = harness(packages, "backend=tiny", "precision=fp32", f"hydra.run.dir={tmp_path}/run")
    told = " ".join(said.stderr.split())
    assert said.returncode == 2 and "of the package tiny-backend" in told and problem in told


def test_an_unknown_one_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    said = harness(installed(tmp_path), "backend.name=huge", f"hydra.run.dir={tmp_path}/run")
    assert said.returncode == 2 and "openvino, onnxruntime, tiny" in said.stderr
