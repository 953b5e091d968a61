"""`repetitions=N`: which jobs come of it, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_fixtures import a_spec
from omegaconf import OmegaConf

from harness.run import job, repetitions
from harness.values.plain import read_json
from harness.values.report import Report, Timing
from harness.values.spec import RunSpec

Cli = Callable[..., int]


@pytest.fixture
def at_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line with a launch that starts no process: the tests are about which jobs there are."""

    def launched(spec: RunSpec, folder: Path, **_: object) -> Report:
        timing = Timing(9, 1.0, spec.batch.size, 8, {"p50": 10.0 + spec.repetition}, 200.0, 16.0)
        report = Report(spec, "finished", timing=timing)
        report.write(folder)
        return report

    monkeypatch.setattr(job, "launch", launched)
    return cli


def jobs(sweep: Path) -> list[Report]:
    folders = sorted((path.parent for path in sweep.glob("*/report.json")), key=lambda path: int(path.name))
    return [Report.read(folder) for folder in folders]


@pytest.mark.parametrize("flag", [[], ["-m"]], ids=["without -m", "with -m"])
def test_repetitions_take_turns_over_the_variants(at_once: Cli, tmp_path: Path, flag: list[str]) -> None:
    assert at_once(*flag, "repetitions=3", "batch=1,4", "tracking=none") == 0
    done = [(report.spec.repetition, report.spec.batch.size) for report in jobs(tmp_path / "sweep")]
    assert done == [(0, 1), (0, 4), (1, 1), (1, 4), (2, 1), (2, 4)]
    assert {report.spec.repetitions for report in jobs(tmp_path / "sweep")} == {3}


def test_a_canned_sweep_is_repeated_as_a_whole(at_once: Cli, tmp_path: Path) -> None:
    assert at_once("+experiment=quickstart", "repetitions=2", "tracking=none") == 0
    done = [(report.spec.repetition, report.spec.contender) for report in jobs(tmp_path / "sweep")]
    assert [number for number, _ in done] == [0] * 5 + [1] * 5
    assert [name for _, name in done[:5]] == [name for _, name in done[5:]]


def test_one_variant_repeated_is_a_sweep_with_one_row_and_one_record(
    at_once: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert at_once("repetitions=6", "tracking=none") == 0
    assert "spread" in capfd.readouterr().out
    lines = (tmp_path / "sweep/sweep.csv").read_text().splitlines()
    assert len(lines) == 2 and ",6," in lines[1]
    (variant,) = read_json(tmp_path / "sweep/results.json")["variants"]
    whole = Report.from_plain(variant["report"])
    assert whole.repeated is not None and [one.number for one in whole.repeated.measured] == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]


def test_the_repetition_is_the_slowest_axis_and_there_is_none_of_one() -> None:
    config = OmegaConf.create({"repetitions": 3, "hydra": {"sweeper": {"params": {"batch": "1,4"}}}})
    repetitions.expand(config)
    assert list(config.hydra.sweeper.params.items()) == [("repetition", "0,1,2"), ("batch", "1,4")]
    once = OmegaConf.create({"repetitions": 1, "hydra": {"sweeper": {"params": None}}})
    repetitions.expand(once)
    assert once.hydra.sweeper.params is None


def test_a_numbered_spec_is_the_same_but_for_its_number() -> None:
    spec = a_spec(repetitions=3)
    assert repetitions.numbered(spec, 2) == dataclasses.replace(spec, repetition=2)


@pytest.mark.parametrize("wrong", ["repetitions=0", "repetitions=1,2", "repetition=1", "repetitions=two"])
def test_a_wrong_number_ends_with_2_and_says_so(
    cli: Cli, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli(wrong, "tracking=none") == 2
    assert wrong.split("=")[0] in "".join(capfd.readouterr())
