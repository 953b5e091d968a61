"""Files of an installed distribution: only those that are listed, and only as they were pinned."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import pytest

from harness.values.errors import UserError
from harness.worker.package import checked_files


@pytest.fixture
def distribution(tmp_path: Path) -> importlib.metadata.Distribution:
    """An installed `some-model` with two files."""
    (tmp_path / "model/sub").mkdir(parents=True)
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/sub/vocab.txt").write_text("a\n")
    info = tmp_path / "some_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
    return importlib.metadata.Distribution.at(info)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_only_listed_files_are_shown_and_the_folder_is_gone_afterwards(
    distribution: importlib.metadata.Distribution,
) -> None:
    with checked_files(distribution, "model", {"sub/vocab.txt": digest("a\n").upper()}) as shown:
        assert [str(path.relative_to(shown)) for path in shown.rglob("*.*")] == ["sub/vocab.txt"]
        assert (shown / "sub/vocab.txt").read_text() == "a\n"
    assert not shown.exists()


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [("config.json", "{ }", "has the SHA-256"), ("weights.bin", "", "has no file weights.bin")],
)
def test_what_is_not_as_pinned_is_refused(
    distribution: importlib.metadata.Distribution, file: str, text: str, problem: str
) -> None:
    with (
        pytest.raises(UserError, match=f"some-model.*{problem}"),
        checked_files(distribution, "model", {file: digest(text)}),
    ):
        pass
