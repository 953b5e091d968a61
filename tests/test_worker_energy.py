"""RAPL counters, read from a tree of files such as Linux shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.worker import energy
from harness.worker.energy import Counter


@pytest.fixture(autouse=True)
def powercap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def zone(powercap: Path, folder: str, name: str, microjoules: int, limit: int = 65_000_000_000) -> Path:
    place = powercap / folder
    place.mkdir(exist_ok=True)
    (place / "name").write_text(f"{name}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text(f"{limit}\n")
    return place


def two_packages(powercap: Path, first: int, second: int) -> tuple[Counter, ...]:
    zone(powercap, "intel-rapl", "control", 0)
    zone(powercap, "intel-rapl:0", "package-0", first)
    zone(powercap, "intel-rapl:0:0", "dram", 7_000_000)
    zone(powercap, "intel-rapl:1", "package-1", second)
    zone(powercap, "intel-rapl:2", "psys", 9_000_000)
    found = energy.counters()
    assert not isinstance(found, str)
    return found


def test_packages_add_up_without_their_parts(powercap: Path) -> None:
    before = two_packages(powercap, 1_000_000, 5_000_000)
    after = two_packages(powercap, 4_000_000, 5_500_000)
    used = energy.used(before, after, 10.0, sequences=7)
    assert (used.joules, used.joules_per_sequence, used.absent_because) == (3.5, 0.5, None)


def test_a_counter_that_begins_anew(powercap: Path) -> None:
    before = two_packages(powercap, 64_999_000_000, 0)
    after = two_packages(powercap, 999_999, 0)
    assert energy.used(before, after, 10.0, 1).joules == pytest.approx(2.0)


def test_a_window_in_which_it_may_have_done_so_twice(powercap: Path) -> None:
    before = two_packages(powercap, 0, 0)
    used = energy.used(before, before, 66.0, 1)
    assert used.joules is None and used.absent_because is not None and "66 s" in used.absent_because


def test_a_machine_without_counters_has_no_energy_and_no_zero() -> None:
    found = energy.counters()
    used = energy.used(found, found, 1.0, 1)
    assert (used.joules, used.joules_per_sequence) == (None, None)
    assert used.absent_because == "this machine shows no RAPL counters"


def test_a_counter_that_may_not_be_read(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(powercap, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refused(path: Path, *args: object, **options: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read(path)

    monkeypatch.setattr(Path, "read_text", refused)
    assert energy.counters() == "intel-rapl:0/energy_uj may only be read by root"


def test_a_counter_that_vanishes(powercap: Path) -> None:
    before = two_packages(powercap, 0, 0)
    assert energy.used(before, before[:1], 1.0, 1).joules is None
