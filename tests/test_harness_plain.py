import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.values.plain import from_plain, to_plain, write_json, write_text


@dataclass(frozen=True)
class Inner:
    number: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    table: dict[str, int] = field(default_factory=dict)
    either: int | str = 1


@pytest.mark.parametrize("value", [Outer(Inner()), Outer(Inner(2.5, ("a", "b")), {"x": 1}, "all")])
def test_json_brings_back_an_equal_value(value: Outer) -> None:
    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value


def test_a_number_that_is_not_finite_is_absent() -> None:
    assert to_plain(Inner(float("nan"))) == {"number": None, "names": []}


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="Inner has no field colour"):
        from_plain(Outer, {"inner": {"colour": "red"}})


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, Inner(1.0))
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert json.loads(path.read_text())["number"] == 1.0
    assert list(tmp_path.iterdir()) == [path]
