"""Finding and loading the compiled library, and what is said when that fails."""

from __future__ import annotations

import _ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bert_op
import pytest
from bert_op import _library
from bert_op._library import LibraryError


def import_errors(variable: str, values: list[str]) -> list[str]:
    """What `import bert_op` raises in a fresh process for each value of an environment variable."""
    program = (
        "import os, sys\n"
        "for value in sys.argv[2:]:\n"
        "    os.environ[sys.argv[1]] = value\n"
        "    try: import bert_op\n"
        "    except ImportError as error: print(type(error).__name__, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, variable, *values], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_library_is_the_one_that_the_setting_names(tmp_path: Path) -> None:
    copy = shutil.copy(_library.library_path(), tmp_path / "copy.so")
    result = subprocess.run(
        [sys.executable, "-c", "import bert_op; print(bert_op.explain()['library'])"],
        env={**os.environ, "BERT_OP_PT_LIB": str(copy)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == str(copy), result.stderr


def test_a_setting_that_comes_too_late_is_an_error(tmp_path: Path) -> None:
    copy = shutil.copy(_library.library_path(), tmp_path / "copy.so")
    program = (
        "import sys, torch\n"
        "torch.ops.load_library(sys.argv[1])\n"
        "try: import bert_op; print('imported')\n"
        "except ImportError as error: print(error)\n"
    )
    refused = "BERT_OP_PT_LIB=/another.so cannot be used"
    for setting, expected in ((copy, "imported"), ("/another.so", refused)):
        result = subprocess.run(
            [sys.executable, "-c", program, str(copy)],
            env={**os.environ, "BERT_OP_PT_LIB": str(setting)},
            capture_output=True,
            text=True,
        )
        assert result.stdout.startswith(expected), result.stderr


def test_import_fails_with_the_setting_its_value_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    absent, text, other = str(tmp_path / "none.so"), str(tmp_path / "text.so"), _ctypes.__file__
    problems = import_errors("BERT_OP_PT_LIB", [absent, text, str(tmp_path), other])
    assert [problem.split()[0] for problem in problems] == ["LibraryError"] * 4
    assert f"BERT_OP_PT_LIB={absent} does not exist" in problems[0]
    assert f"BERT_OP_PT_LIB={text} cannot be loaded as a shared library" in problems[1]
    assert f"BERT_OP_PT_LIB={tmp_path} is a directory" in problems[2]
    assert f"BERT_OP_PT_LIB={other} is a library, but it does not register" in problems[3]
    assert all("BERT_OP_PT_LIB" in problem or "libBertOpPT.so" in problem for problem in problems)


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ("/x.so: undefined symbol: _ZN3c1010TensorImpl", "was built against another version"),
        ("/x.so: version `GLIBCXX_3.4.99' not found", "was built against another version"),
        ("/x.so: file too short", "cannot be loaded as a shared library"),
    ],
)
def test_load_failures_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, detail: str, expected: str
) -> None:
    (tmp_path / "x.so").touch()
    monkeypatch.setenv("BERT_OP_PT_LIB", str(tmp_path / "x.so"))
    monkeypatch.setattr(_library, "_registered", lambda: False)

    def fail(path: str) -> None:
        raise OSError(detail)

    monkeypatch.setattr(_library.torch.ops, "load_library", fail)
    with pytest.raises(LibraryError, match=expected) as error:
        _library.load()
    assert f"BERT_OP_PT_LIB={tmp_path / 'x.so'}" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_installation_names_both_remedies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BERT_OP_PT_LIB", raising=False)
    monkeypatch.setattr(_library, "LIBRARY_NAME", "libBertOpPT-absent.so")
    with pytest.raises(LibraryError, match=r"not installed .*make run.* BERT_OP_PT_LIB=build/"):
        _library.library_path()


def test_tier_that_is_unknown_or_lacking_is_refused() -> None:
    lacking = [tier for tier in _library.TIERS if tier not in bert_op.explain()["isa_available"]]
    tiers = ["sse9", *lacking[:1]]
    for tier, problem in zip(tiers, import_errors("BERT_OP_MAX_ISA", tiers), strict=True):
        assert f"BERT_OP_MAX_ISA='{tier}' cannot be used on this machine" in problem
        assert "Unset it" in problem
        assert "portable, avx2, avx2_vnni, avx512, avx512_vnni, amx" in problem


@pytest.mark.parametrize("version", ["1.13.1+cpu", "2.10.2"])
def test_a_torch_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(_library.torch, "__version__", version)
    with pytest.raises(
        LibraryError, match=r"needs torch 2\.11 or newer, but torch .* pip install 'torch>=2\.11'"
    ):
        _library.load()


@pytest.mark.parametrize("version", ["2.11.0a0+git1", "2.14.1+cu130", "3.0.0"])
def test_a_newer_torch_than_that_of_the_build_is_fine(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(_library.torch, "__version__", version)
    _library.load()


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm of binutils")
def test_library_asks_for_torchs_stable_interface_alone() -> None:
    names = subprocess.run(
        ["nm", "-DC", str(_library.library_path())], capture_output=True, text=True, check=True
    ).stdout
    asked = [line.split(None, 1)[-1] for line in names.splitlines()]
    assert not [name for name in asked if "at::" in name or "c10::" in name or "Py" in name or "omp_" in name]
    assert any("torch_call_dispatcher" in name for name in asked)
