"""A folder that is used again: what was measured there before is not taken for the new run's or sweep's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_fixtures import STUB, a_spec

from harness.run import earlier, launch, unfinished
from harness.values.errors import UserError
from harness.values.plain import read_json, write_json
from harness.values.report import Report

Cli = Callable[..., int]
SWEEP = "sweep.json"


def test_a_run_removes_the_results_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ["report.json", "report.md", "samples.npz", "predictions.json", "latency.png"]
    for name in (*old, "notes.txt"):
        (tmp_path / name).write_text("old")
    for name in ("instance-1", "barrier", "instance-of-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ready-0").touch()
    monkeypatch.setenv("STUB", "silent")  # this one leaves nothing but its report
    report = launch.launch(a_spec(), tmp_path, STUB)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"report.json", "spec.json", "notes.txt", "instance-of-mine"}
    assert Report.read(tmp_path) == report


def test_a_run_that_is_refused_keeps_no_samples_of_another(cli: Cli, tmp_path: Path) -> None:
    assert cli("tracking=none") == 0
    assert (tmp_path / "run/samples.npz").is_file()
    assert cli("tracking=none", "batch.size=0") == 2
    assert Report.read(tmp_path / "run").failure is not None
    assert not (tmp_path / "run/samples.npz").exists() and not (tmp_path / "run/report.md").exists()


def test_a_smaller_sweep_has_only_its_own_jobs_and_the_one_before_is_kept(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("-m", "batch=1,4,8", "tracking=none") == 0
    assert cli("-m", "batch=4", "tracking=none") == 0
    (variant,) = read_json(tmp_path / "sweep/results.json")["variants"]
    assert variant["report"]["spec"]["batch"]["size"] == 4
    assert len((tmp_path / "sweep/sweep.csv").read_text().splitlines()) == 2
    (aside,) = tmp_path.glob("sweep-*")
    assert len(read_json(aside / "results.json")["variants"]) == 3
    assert str(aside.name) in capfd.readouterr().out


def a_sweep(folder: Path) -> Path:
    (folder / "0/.hydra").mkdir(parents=True)
    (folder / SWEEP).write_text("{}")
    return folder


def test_the_earlier_sweep_gets_the_time_of_its_end_and_never_the_place_of_another(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        folder = a_sweep(tmp_path / "ci")
        os.utime(folder / SWEEP, (1_900_000_000, 1_900_000_000))
        aside = earlier.move_aside(folder, SWEEP)
        assert aside is not None and (aside / SWEEP).is_file() and not folder.exists()
        names.append(aside.name)
    assert names[0].startswith("ci-2030-03-1") and names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]


def test_what_is_no_earlier_sweep_stays(tmp_path: Path) -> None:
    assert earlier.move_aside(tmp_path / "new", SWEEP) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/baseline.json").touch()
    assert earlier.move_aside(tmp_path / "mine", SWEEP) is None
    (tmp_path / "mine" / SWEEP).touch()  # of a mistyped command line: no job began
    assert earlier.move_aside(tmp_path / "mine", SWEEP) is None
    assert (tmp_path / "mine/baseline.json").exists()


def test_a_sweep_that_goes_on_or_cannot_be_moved_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_sweep(tmp_path / "sweep")
    write_json(folder / "0" / unfinished.RUNNING_FILE, {"host": "elsewhere", "process": "pid=1 boot=x"})
    with pytest.raises(UserError, match="still measured on elsewhere"):
        earlier.move_aside(folder, SWEEP)
    (folder / "0" / unfinished.RUNNING_FILE).unlink()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir='\.': .*current directory"):
        earlier.move_aside(Path("."), SWEEP)
    assert (folder / SWEEP).is_file()


MINE = "results of somebody's own"


@pytest.mark.parametrize(
    "name", ["report.json", "spec.json", "samples.npz", "latency.png", "instance-0", "barrier"]
)
def test_what_is_not_the_harness_s_is_not_overwritten_by_a_run(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    place = tmp_path / "run" / name
    place = place if "." in name else place / "notes.txt"
    place.parent.mkdir(parents=True)
    place.write_text('{"mine": 1}' if name == "report.json" else MINE)
    before = place.read_text()
    for wrong in ([], ["batch.size=0"]):
        assert cli("tracking=none", *wrong) == 2
        said = "".join(capfd.readouterr())
        assert f"hydra.run.dir='{tmp_path}/run': holds {name}" in said and said.count("error: ") == 1
        assert place.read_text() == before and not (tmp_path / "run/.hydra").exists()


@pytest.mark.parametrize(
    "name", ["results.json", "sweep.csv", "multirun.yaml", "1/report.json", "0/spec.json"]
)
def test_what_is_not_the_harness_s_is_not_overwritten_by_a_sweep(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    place = tmp_path / "sweep" / name
    place.parent.mkdir(parents=True)
    place.write_text(MINE)
    assert cli("-m", "batch=1,4", "tracking=none") == 2
    assert f"holds {place.name}" in "".join(capfd.readouterr()) and place.read_text() == MINE
    assert [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()] == [place]


def test_beside_other_files_there_is_room_for_a_run_and_a_sweep(cli: Cli, tmp_path: Path) -> None:
    for place in ("run", "sweep"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "baseline.json").write_text(MINE)
    assert cli("tracking=none") == 0 and cli("tracking=none") == 0
    assert cli("-m", "batch=1", "tracking=none") == 0
    assert cli("-m", "batch.size=0,-1", "tracking=none") == 2
    assert (tmp_path / "run/baseline.json").read_text() == MINE
    (aside,) = tmp_path.glob("sweep-*")  # the first sweep, and what lay beside it
    assert (aside / "baseline.json").read_text() == MINE and not (tmp_path / "sweep").exists()


def test_a_refused_sweep_leaves_what_was_there_before(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "sweep/0").mkdir(parents=True)
    for name in ("notes.txt", "0/notes.txt"):
        (tmp_path / "sweep" / name).write_text(MINE)
    assert cli("-m", "batch.size=0,-1", "tracking=none") == 2
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"sweep/notes.txt", "sweep/0/notes.txt"}


def test_a_run_whose_harness_was_killed_before_its_worker_began_is_ours(tmp_path: Path) -> None:
    unfinished.mark(tmp_path)
    (tmp_path / "latency.png").touch()
    earlier.refuse_foreign(tmp_path)
