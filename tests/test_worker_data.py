"""Reading labelled pairs: every format, and every way in which a file can be wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from worker_tools import PAIRS, shared, write_pairs

from harness.values import sentence_pairs
from harness.values.errors import UserError
from harness.values.spec import DataSpec
from harness.worker.data import Pairs, read_pairs

ROWS = [{"sentence1": first, "sentence2": second, "label": label} for first, second, label in PAIRS]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    match path.suffix:
        case ".tsv":
            lines = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
            path.write_text("\n".join(lines))
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        case ".json":
            path.write_text(json.dumps(rows))
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        case ".parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def spec(path: Path | str, **changes: Any) -> DataSpec:
    return DataSpec(**({"name": "test", "path": str(path), "samples": "all"} | changes))


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".json", ".jsonl", ".parquet", ".TSV"])
def test_every_format_gives_the_same_pairs(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"pairs{ending.lower()}", ROWS).rename(tmp_path / f"pairs{ending}")
    first, second, labels = zip(*PAIRS, strict=True)
    assert read_pairs(spec(path)) == Pairs(first, second, labels)


def test_json_may_hold_the_rows_under_data(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    pairs = read_pairs(spec(tmp_path / "pairs.json"))
    assert pairs is not None and len(pairs) == len(ROWS)


def test_samples_takes_the_first_ones(tmp_path: Path) -> None:
    pairs = read_pairs(spec(write_pairs(tmp_path / "pairs.tsv"), samples=2))
    assert pairs is not None
    assert pairs.sentence1 == (PAIRS[0][0], PAIRS[1][0])


def test_a_tsv_knows_no_quoting(tmp_path: Path) -> None:
    sentence = '"I know," he said'
    (tmp_path / "pairs.tsv").write_text(f'label\tsentence1\tsentence2\n1\t{sentence}\t"Yes\n0\ta\tb\n')
    pairs = read_pairs(spec(tmp_path / "pairs.tsv"))
    assert pairs == Pairs((sentence, "a"), ('"Yes', "b"), (1, 0))


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"q1": "a", "q2": "b", "same": True}, {"q1": "c", "q2": "d", "same": False}]
    columns = {"sentence1": "q1", "sentence2": "q2", "label": "same"}
    assert read_pairs(spec(write(tmp_path / "p.jsonl", rows), columns=columns)) == Pairs(
        ("a", "c"), ("b", "d"), (1, 0)
    )


def test_the_digest_tells_data_apart() -> None:
    pairs = Pairs(("a", "b"), ("c", "d"), (0, 1))
    assert pairs.digest() == Pairs(("a", "b"), ("c", "d"), (0, 1)).digest()
    assert pairs.digest() != Pairs(("a", "b"), ("c", "d"), (1, 1)).digest()
    assert pairs.digest() != Pairs(("ab", ""), ("c", "d"), (0, 1)).digest()


def test_a_shipped_set_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_pairs, "SHIPPED_FOLDER", tmp_path)
    write_pairs(tmp_path / "tiny.tsv")
    pairs = read_pairs(DataSpec("tiny", shipped="tiny.tsv", samples="all"))
    assert pairs is not None and len(pairs) == len(PAIRS)


def test_random_ids_have_no_pairs() -> None:
    assert read_pairs(DataSpec("synthetic")) is None


# file name, content (None: not written), what the message has to say
WRONG_FILES = [
    ("gone.tsv", None, "does not exist"),
    ("pairs.xlsx", "x", "no known format"),
    ("pairs", "x", "no known format"),
    ("pairs.tsv", "label\tsentence1\n1\ta\n", "no column sentence2; it has label, sentence1"),
    ("pairs.tsv", "label\tsentence1\tsentence2\n1\ta\tb\n0\tc\n", "row 2 has no value in column sentence2"),
    ("pairs.tsv", "label\tsentence1\tsentence2\n", "no rows"),
    ("pairs.tsv", "", "no rows"),
    ("pairs.csv", "label,sentence1,sentence2\n2,a,b\n", "row 1 has the label '2'"),
    (
        "pairs.json",
        '[{"label": null, "sentence1": "a", "sentence2": "b"}]',
        "row 1 has no value in column label",
    ),
    ("pairs.jsonl", '{"label": 1, "sentence1": "a"}', "no column sentence2; it has label, sentence1"),
    ("pairs.json", "{", "cannot be read as json"),
    ("pairs.json", '{"rows": []}', "expected a list of objects"),
    ("pairs.jsonl", "[1, 2]\n", "expected a list of objects"),
    ("pairs.parquet", "no parquet", "cannot be read as parquet"),
    ("pairs.tsv", b"label\tsentence1\tsentence2\n1\t\xff\tb\n", "cannot be read as tsv"),
]


@pytest.mark.parametrize(("name", "content", "problem"), WRONG_FILES)
def test_a_wrong_file_is_a_user_error(
    tmp_path: Path, name: str, content: str | bytes | None, problem: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_pairs(spec(path))
    assert problem in str(caught.value)
    assert caught.value.setting == "data.path"
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_null_cell_of_a_parquet_file_is_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.parquet", [ROWS[0], {**ROWS[1], "label": None}])
    with pytest.raises(UserError, match="row 2 has no value in column label"):
        read_pairs(spec(path))


def test_a_data_set_that_the_hub_cannot_give_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*args: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        UserError, match=r"data\.hub_id='nyu-mll/glue/mrpc/validation'.*data\.path=<file>"
    ) as caught:
        read_pairs(DataSpec("mrpc", hub_id="nyu-mll/glue", hub_config="mrpc", hub_split="validation"))
    assert "\n" not in str(caught.value)


def test_pairs_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def load(*args: object, **options: object) -> datasets.Dataset:
        asked.append((args, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    pairs = read_pairs(
        DataSpec("mrpc", hub_id="nyu-mll/glue", hub_config="mrpc", hub_split="test", samples=3)
    )
    assert pairs is not None and pairs.labels == (1, 1, 0)
    assert asked == [(("nyu-mll/glue", "mrpc"), {"split": "test"})]


def test_the_shared_mrpc_file() -> None:
    pairs = read_pairs(spec(shared("data", "mrpc", "test.tsv")))
    assert pairs is not None and len(pairs) == 1725
    assert set(pairs.labels) == {0, 1}


def test_pairs_without_labels(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("sentence1\tsentence2\na\tb\nc\td\n")
    pairs = read_pairs(DataSpec("own", path=str(file), samples="all"))
    assert pairs is not None and (len(pairs), pairs.labels) == (2, ())
    assert pairs.digest() != Pairs(("a", "c"), ("b", "d"), (0, 1)).digest()
