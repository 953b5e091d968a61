"""Passages to search in: from files, or from sentence pairs; read and judged in the parent and the worker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from harness.values.errors import UserError
from harness.values.sentence_pairs import Pairs
from harness.values.spec import WorkloadSpec

REMEDY = "Name a folder of .txt files, a .txt file with a passage a line, or a .jsonl file"


@dataclass(frozen=True)
class Corpus:
    """Passages, and what is known of searches among them.

    passages: distinct, at least one. right: of each of the queries, the numbers of the passages that answer.
    """

    passages: tuple[str, ...]
    queries: tuple[str, ...] = ()
    right: tuple[tuple[int, ...], ...] = ()

    def digest(self) -> str:
        """SHA-256 over all of it, so that two records can tell whether they saw the same."""
        told = json.dumps([self.passages, self.queries, self.right], ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()


def of_pairs(pairs: Pairs) -> Corpus:
    """The second sentences; the first sentence of each pair with label 1 searches for its second one."""
    passages = tuple(dict.fromkeys(pairs.sentence2))
    number = {passage: index for index, passage in enumerate(passages)}
    right: dict[str, list[int]] = {}
    for first, second, label in zip(pairs.sentence1, pairs.sentence2, pairs.labels or (), strict=False):
        if label == 1 and first != second:
            right.setdefault(first, []).append(number[second])
    return Corpus(passages, tuple(right), tuple(tuple(numbers) for numbers in right.values()))


def of_file(workload: WorkloadSpec) -> Corpus | None:
    """The passages of `workload.corpus`, without queries; None where it names nothing.

    Equal passages count once, empty ones do not. UserError where there is none, or what is there is not text.
    """
    if workload.corpus is None:
        return None
    path = Path(workload.corpus)
    try:
        passages = _passages(path, workload)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError("workload.corpus", str(path), f"cannot be read ({reason})", REMEDY) from error
    kept = tuple(dict.fromkeys(passage for passage in (text.strip() for text in passages) if passage))
    if not kept:
        raise UserError("workload.corpus", str(path), "holds no passage", REMEDY)
    return Corpus(kept)


def _passages(path: Path, workload: WorkloadSpec) -> list[str]:
    if path.is_dir():
        return [file.read_text(encoding="utf-8") for file in sorted(path.glob("*.txt"))]
    lines = path.read_text(encoding="utf-8").split("\n")
    if path.suffix == ".txt":
        return lines
    if path.suffix == ".jsonl":
        numbered = enumerate(lines, start=1)
        return [_field(path, number, line, workload.field) for number, line in numbered if line.strip()]
    raise UserError("workload.corpus", str(path), f"has the unknown ending {path.suffix!r}", REMEDY)


def _field(path: Path, number: int, line: str, field: str) -> str:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError("workload.corpus", str(path), f"line {number} is no JSON", "Repair it") from error
    text = found.get(field) if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise UserError(
            "workload.field", field, f"line {number} of {path.name} has no text under this name",
            "Name the field that holds the passage",
        )  # fmt: skip
    return text
