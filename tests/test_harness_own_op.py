"""Two checkouts side by side: each measures its own op, whichever environment is active."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from harness.run import own_op
from harness.run.host import Placement, environment
from harness.values.errors import UserError

LIBRARY = Path("op", own_op.LIBRARY)


def checkout(folder: Path, built: bool) -> Path:
    """A checkout's folders with a bert_op that does nothing."""
    (folder / "op/bert_op").mkdir(parents=True)
    (folder / "harness").mkdir()
    (folder / "op/bert_op/__init__.py").touch()
    if built:
        (folder / LIBRARY).touch()
    return folder


class Redirect:
    """Answers for bert_op before any search path, as editable installs do."""

    def __init__(self, home: Path) -> None:
        self.file = home / "op/bert_op/__init__.py"

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self.file) if name == "bert_op" else None


def interpreter(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """As one that has not imported bert_op and finds it in these folders alone."""
    others = [entry for entry in sys.path if not (Path(entry) / "bert_op").is_dir()]
    monkeypatch.delitem(sys.modules, "bert_op", raising=False)
    monkeypatch.setattr(sys, "path", [*map(str, folders), *others])


def test_a_built_checkout_goes_first_on_the_workers_path(tmp_path: Path) -> None:
    one, two = checkout(tmp_path / "one's own", True), checkout(tmp_path / "two", True)
    path = environment(Placement(None, None), {"PYTHONPATH": str(one / "op")}, two)["PYTHONPATH"]
    assert path == os.pathsep.join(map(str, (two, two / "op", one / "op")))
    program = "import bert_op; print(bert_op.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, cwd=one,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(two / "op/bert_op/__init__.py")


def test_one_that_is_not_built_leaves_the_word_to_an_installed_one(tmp_path: Path) -> None:
    bare = checkout(tmp_path / "bare", False)
    assert own_op.folders(bare, {}) == []
    assert own_op.folders(bare, {own_op.VARIABLE: "build/libBertOpPT.so"}) == [str(bare / "op")]


def test_the_op_of_another_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = checkout(tmp_path / "one", True), checkout(tmp_path / "two", False)
    interpreter(monkeypatch, one / "op")
    with pytest.raises(UserError, match=r"is not built in .*/two, and .* that of .*/one\. Run make"):
        own_op.check(two, {})
    (two / LIBRARY).touch()
    own_op.check(two, {})  # the worker's path decides
    own_op.check(one, {})


def test_an_installed_op_is_measured_where_the_checkout_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages"
    (installed / "bert_op").mkdir(parents=True)
    (installed / "bert_op/__init__.py").touch()
    interpreter(monkeypatch, installed)
    own_op.check(checkout(tmp_path / "bare", False), {})


def test_an_editable_install_that_goes_before_every_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = checkout(tmp_path / "one", True), checkout(tmp_path / "two", True)
    interpreter(monkeypatch)
    monkeypatch.setattr(sys, "meta_path", [Redirect(one), *sys.meta_path])
    with pytest.raises(UserError, match=r"take it from .*/one/op, not from .*/two\. pip uninstall"):
        own_op.check(two, {})
    own_op.check(one, {})
