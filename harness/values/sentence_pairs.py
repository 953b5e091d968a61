"""Labelled sentence pairs from a file: read and judged, in the parent as well as in the worker."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.values.errors import UserError
from harness.values.spec import DataSpec

SHIPPED_FOLDER = Path(__file__).parents[1] / "data"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs with labels: 1 a paraphrase, 0 none. All three have the same length, at least 1, but for
    labels where there are none: then they are empty."""

    sentence1: tuple[str, ...]
    sentence2: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sentence1)

    def digest(self) -> str:
        """SHA-256 over all pairs and labels, so that two records can tell whether they saw the same data."""
        labels = self.labels or (None,) * len(self)
        rows = list(zip(labels, self.sentence1, self.sentence2, strict=True))
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def of_file(data: DataSpec) -> Pairs | None:
    """The first `data.samples` pairs of the file that `data` names, or None where it names none.

    Raises UserError for a missing file, an unknown ending, missing columns or values, labels other than 0 and
    1, or no rows.
    """
    if data.path is not None:
        return of_rows(data, "data.path", data.path, _read_file(Path(data.path), "data.path"))
    if data.shipped is not None:
        path = SHIPPED_FOLDER / data.shipped
        return of_rows(data, "data.shipped", data.shipped, _read_file(path, "data.shipped"))
    return None


def of_rows(data: DataSpec, setting: str, value: str, rows: Iterable[Row]) -> Pairs:
    """The first `data.samples` of `rows`, which have the columns `data.columns`; `setting` named `value` as
    their source. UserError as in `of_file`. Where the first row has no label, none is read.
    """
    columns = [data.columns[field] for field in ("sentence1", "sentence2", "label")]
    limit = None if isinstance(data.samples, str) else data.samples
    taken: list[tuple[str, str, int | None]] = []
    labelled = True
    for number, row in enumerate(rows, start=1):
        if number == 1 and columns[2] not in row:
            labelled, columns = False, columns[:2]
        missing = [column for column in columns if column not in row]
        if missing:
            raise UserError(
                setting, value, f"row {number} has no column {', '.join(missing)}; it has {_names(row)}",
                "Add the columns, or say how they are called with data.columns.label=<name> and so on",
            )  # fmt: skip
        empty = [column for column in columns if row[column] is None]
        if empty:
            raise UserError(
                setting, value, f"row {number} has no value in column {', '.join(empty)}",
                "Fill it in, or leave the row out",
            )  # fmt: skip
        label = _label(setting, value, number, row[columns[2]]) if labelled else None
        taken.append((str(row[columns[0]]), str(row[columns[1]]), label))
        if limit is not None and len(taken) == limit:
            break
    if not taken:
        raise UserError(setting, value, "has no rows", "Name a source with at least one pair")
    first, second, labels = zip(*taken, strict=True)
    return Pairs(first, second, labels if labelled else ())


def _label(setting: str, value: str, number: int, label: object) -> int:
    text = str(label).strip()
    if text not in ("0", "1", "0.0", "1.0", "True", "False"):
        raise UserError(
            setting, value, f"row {number} has the label {label!r}", "Labels are 0 (none) and 1 (paraphrase)"
        )
    return int(text in ("1", "1.0", "True"))


def _names(row: Row) -> str:
    return ", ".join(str(name) for name in row if name is not None) or "none"


def _read_file(path: Path, setting: str) -> Iterable[Row]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            setting, str(path), "has an ending of no known format", f"Use one of {', '.join(READERS)}"
        )
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(setting, str(path), "does not exist", "Name an existing file") from None
    except (OSError, ValueError, csv.Error) as error:
        # pyarrow's and json's errors are ValueErrors; a UnicodeDecodeError is one too.
        reason = " ".join(str(error).split())
        raise UserError(
            setting, str(path), f"cannot be read as {path.suffix.lower()[1:]} ({reason})",
            "Check the file, or give it the ending of its format",
        ) from error  # fmt: skip


def _read_tsv(path: Path) -> list[Row]:
    # The TSV files of GLUE know no quoting: a quotation mark is part of the sentence.
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def _read_json(path: Path) -> list[Row]:
    """A list of objects, or an object with such a list under `data`."""
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    return _objects(content.get("data") if isinstance(content, dict) else content)


def _read_json_lines(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return _objects([json.loads(line) for line in lines if line.strip()])


def _objects(content: Any) -> list[Row]:
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("expected a list of objects")
    return content


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet  # half a second that no other format needs

    return _objects(pyarrow.parquet.read_table(path).to_pylist())


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
