from pathlib import Path

import pytest

from harness.values.redact import (
    MLFLOW_VARIABLE,
    VARIABLE,
    hide,
    hide_arguments,
    is_redacted,
    redact,
    redact_files,
    reveal,
)


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
        ("sqlite:////a:b@c/d?e@f", "sqlite:////a:b@c/d?e@f"),
        ("http://host/users/a@b?mail=a@b", "http://host/users/a@b?mail=a@b"),
        ("git+https://host/project@v1", "git+https://host/project@v1"),
        # What ends a host elsewhere may stand in a password.
        ("postgresql://user:p/w?x#y@host/db", "postgresql://***@host/db"),
        ("postgresql://user:p/w@host/db?password=a@b&x=1", "postgresql://***@host/db?password=***&x=1"),
        ("http://user:p?token=x@host/db", "http://***"),
        ("http://:pa/ss@host", "http://***@host"),
        ("http://host/x,http://user:pw@host", "http://host/x,http://***@host"),
        # Not even what begins another URI ends it.
        ("postgresql://user:p://w@host/db", "postgresql://***@host/db"),
        ("postgresql://user:p://w@host/db?password=a://b@c&x=1", "postgresql://***@host/db?password=***&x=1"),
        ("http://:://@host", "http://***@host"),
        ("http://us@er:p://w@host", "http://***@host"),
        ("http://amy@post.org:p/w@host", "http://***@host"),
        ("http://token://s@host", "http://***@host"),
        ("http://host/x,http://user:p://w@host", "http://host/x,http://***@host"),
        ("http://host:5000,http://other:5000", "http://host:5000,http://other:5000"),
        ("http://user:p@host:5000,http://other/x", "http://***@host:5000,http://other/x"),
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
    assert hide("sqlite:///x.db", environ) == "sqlite:///x.db" and environ == {}


def test_what_was_hidden_is_found_wherever_it_came_from() -> None:
    environ = {MLFLOW_VARIABLE: "http://amy:one@host"}
    assert reveal("http://***@host", environ) == "http://amy:one@host"
    assert hide("http://amy:two@other", environ) == "http://***@other"
    assert reveal("http://***@other", environ) == "http://amy:two@other"
    assert reveal("http://***@host", environ) == "http://amy:one@host"
    assert reveal("http://***@third", environ) == "http://***@third"
    assert is_redacted("http://***@third") and not is_redacted("http://amy:two@other")


def test_saved_configurations_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("uri: http://u:secret@h\n")
    redact_files(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "uri: http://***@h\n"
