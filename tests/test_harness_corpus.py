"""Corpora from files and from pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.values import corpus
from harness.values.errors import UserError
from harness.values.sentence_pairs import Pairs
from harness.values.spec import WorkloadSpec


def read(path: Path, field: str = "text") -> tuple[str, ...]:
    found = corpus.of_file(WorkloadSpec("retrieval", str(path), field))
    assert found is not None and not found.queries
    return found.passages


def test_pairs_give_passages_and_the_searches_of_their_paraphrases() -> None:
    pairs = Pairs(("q", "r", "q", "same"), ("a", "b", "c", "same"), (1, 0, 1, 1))
    found = corpus.of_pairs(pairs)
    assert found.passages == ("a", "b", "c", "same")
    assert (found.queries, found.right) == (("q",), ((0, 2),))
    unlabelled = corpus.of_pairs(Pairs(("q",), ("a",), ()))
    assert unlabelled.passages == ("a",) and not unlabelled.queries
    assert found.digest() != unlabelled.digest()


def test_no_corpus_is_none() -> None:
    assert corpus.of_file(WorkloadSpec("retrieval")) is None


def test_each_form_of_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\nof two lines\n")
    (tmp_path / "a.txt").write_text("first")
    assert read(tmp_path) == ("first", "second\nof two lines")
    assert read(tmp_path / "b.txt") == ("second", "of two lines")
    lines = tmp_path / "c.jsonl"
    lines.write_text('{"body": "x\u2028y"}\n\n{"body": "z"}\n{"body": "z"}\n')
    assert read(lines, "body") == ("x\u2028y", "z"), "equal passages count once"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "workload.corpus=.*cannot be read"),
        ("empty.txt", b"\n \n", "holds no passage"),
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("table.doc", b"x", "unknown ending '.doc'"),
        ("broken.jsonl", b'{"text": "a"}\n{', "line 2 is no JSON"),
        ("other.jsonl", b'{"body": "a"}', r"workload\.field='text'.*line 1 of other.jsonl"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)
