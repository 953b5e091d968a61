"""The image's entry point, without Docker: which command it becomes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOW = (
    "import json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:], os.environ.get('LAUNCHED_BY')]))\n"
)
PREFIX = '#!/bin/sh\nexport LAUNCHED_BY="$1 $2"\nshift 2\nexec "$@"\n'


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A stand-in for the interpreter of the harness, which shows its arguments, and one for numactl."""
    (tmp_path / "show.py").write_text(SHOW)
    # No interpreter's path in a first line: it must not have a space.
    python = f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/show.py" "$@"\n'
    for name, text in {"python": python, "numactl": PREFIX}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def entered(tools: Path, *arguments: str) -> list[str | None]:
    """What the entry point starts: arguments of the interpreter, and the prefix that started it."""
    import json

    done = subprocess.run(
        [str(ROOT / "docker/entrypoint"), *arguments],
        capture_output=True, text=True, check=True, cwd="/",
        env={**os.environ, "HARNESS_PYTHON": str(tools / "python"), "PATH": f"{tools}:{os.environ['PATH']}"},
    )  # fmt: skip
    folder, *rest = json.loads(done.stdout)
    assert folder == str(ROOT)
    return list(rest)


def test_all_arguments_are_the_harnesss_without_a_prefix(tools: Path) -> None:
    assert entered(tools, "precision=bf16", "-m") == ["-m", "harness", "precision=bf16", "-m", None]
    assert entered(tools) == ["-m", "harness", None]


def test_what_comes_before_the_dashes_launches_the_harness(tools: Path) -> None:
    prefix = ("numactl", "--cpunodebind=1", "--membind=1")
    found = entered(tools, *prefix, "--", "precision=bf16", "data.path=my pairs.tsv")
    assert found == [
        "-m",
        "harness",
        "precision=bf16",
        "data.path=my pairs.tsv",
        "--cpunodebind=1 --membind=1",
    ]
    assert entered(tools, *prefix, "--") == ["-m", "harness", "--cpunodebind=1 --membind=1"]


def test_only_the_first_dashes_divide_and_no_word_is_split_or_expanded(tools: Path) -> None:
    words = ["a b", "$HOME", "*", "", "'x\"", "--", "c"]
    assert entered(tools, "--", *words) == ["-m", "harness", *words, None]


def test_the_status_is_that_of_the_harness(tools: Path) -> None:
    (tools / "python").write_text("#!/bin/sh\nexit 2\n")
    command = [str(ROOT / "docker/entrypoint"), "env", "--", "precision=fp99"]
    environment = {**os.environ, "HARNESS_PYTHON": str(tools / "python")}
    assert subprocess.run(command, env=environment).returncode == 2


def test_pip_settings_go_along_with_what_they_name(tmp_path: Path) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index/simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    (tmp_path / "pip.conf").write_text(f"[global]\ntimeout=7\nlog={tmp_path}/log\n")
    subprocess.run(
        [sys.executable, str(ROOT / "tests/image/pip_settings.py"), str(tmp_path)], check=True,
        env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_TIMEOUT": "9",
             "PIP_FIND_LINKS": f"{wheels} /no/such",
             "PIP_EXTRA_INDEX_URL": f"file://{index} https://index.example/simple"},
    )  # fmt: skip
    settings = (tmp_path / "pip.conf").read_text()
    assert "timeout = 9" in settings and "log" not in settings and "https://index.example/simple" in settings
    volumes = dict(line.split(":") for line in (tmp_path / "volumes").read_text().splitlines())
    assert f"{volumes[str(wheels)]}\n\t/no/such" in settings and "/no/such" not in volumes
    assert f"file://{volumes[str(index.parent)]}/simple" in settings and str(tmp_path) not in settings
