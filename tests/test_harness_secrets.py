from pathlib import Path

import pytest

from harness.secrets import VARIABLE, hide_arguments, redact, redact_files, reveal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pa@ss@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://user:pw@host/db", "postgresql://***@host/db"),
        (
            "see postgresql+psycopg2://u:p@h/db?password=abc&x=1 now",
            "see postgresql+psycopg2://***@h/db?password=***&x=1 now",
        ),
        ("https://host/?token=abc", "https://host/?token=***"),
        ("sqlite:////some/where/mlflow.db", "sqlite:////some/where/mlflow.db"),
        ("http://host:5000/users/a@b", "http://host:5000/users/a@b"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown and redact(shown) == shown


def test_the_command_line_is_cleaned_and_the_store_still_found() -> None:
    environ: dict[str, str] = {}
    uri = "postgresql://user:secret@host/db"
    hidden = hide_arguments(["-m", "batch=1,4", f"tracking.uri={uri}"], environ)
    assert hidden == ["-m", "batch=1,4", 'tracking.uri="postgresql://***@host/db"']
    assert environ == {VARIABLE: uri}
    assert reveal("postgresql://***@host/db", environ) == uri
    assert reveal("sqlite:///x.db", environ) == "sqlite:///x.db"


def test_without_credentials_nothing_changes() -> None:
    environ: dict[str, str] = {}
    arguments = ["tracking.uri=sqlite:///x.db", "precision=fp32"]
    assert hide_arguments(arguments, environ) == arguments and environ == {}


def test_saved_configurations_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("uri: http://u:secret@h\n")
    redact_files(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "uri: http://***@h\n"
