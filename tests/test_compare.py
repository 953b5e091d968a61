"""`python -m harness.compare` on results that lie on the disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from compare_reports import a_report, save, save_sweep, with_identity

from harness.compare import matching, subjects
from harness.compare.__main__ import main
from harness.judge import pairs
from harness.judge.variants import Subject, frozen
from harness.values.errors import UserError
from harness.values.plain import write_json
from harness.values.report import Failure, Memory, Report
from harness.values.spec import BatchSpec, LoadSpec


def compared(one: Report, other: Report) -> pairs.Pair:
    return pairs.compare(Subject("a", one), Subject("b", other))


def test_a_sweep_is_compared_with_its_first_variant_round_by_round(tmp_path: Path) -> None:
    (first, second) = subjects.read(save_sweep(tmp_path / "sweep", {"hf": 1.0, "op": 0.9}))
    pair = pairs.compare(first, second)
    assert pair.verdict == "faster" and pair.speed is not None and pair.speed.paired
    assert pair.speed.ratio == pytest.approx(1 / 0.9, rel=0.01)
    assert [one.setting for one in pair.differences] == ["backend.name"]


def with_weights(report: Report, megabytes: float) -> Report:
    return dataclasses.replace(report, memory=Memory(weights_mb=megabytes))


def test_only_what_differs_is_told() -> None:
    pair = compared(a_report(), a_report(precision="bf16", repetitions=5))
    assert pair.differences == (pairs.Difference("precision", "fp32", "bf16"),)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (a_report(batch=BatchSpec(4, 8)), "batch.size 2 and 4"),
        (a_report(load=LoadSpec("single_stream")), "load.name offline and single_stream"),
        (with_identity(a_report(), cpu="another CPU"), "cpu a CPU and another CPU"),
        (with_identity(a_report(), torch="2.14"), "torch 2.13 and 2.14"),
        (with_identity(a_report(), env={"MALLOC_CONF": "x"}), "MALLOC_CONF=None and x"),
        (with_identity(a_report(), affinity=(0,)), "2 and 1 cores"),
        (with_identity(a_report()), "fingerprint f and other"),
        (with_weights(a_report(), 437.936), "tiny with 86.4 and 437.936 MB"),
        (
            dataclasses.replace(a_report(), timing=None, failure=Failure("killed", "By SIGKILL.")),
            "By SIGKILL",
        ),
    ],
    ids=["shape", "load", "cpu", "torch", "env", "cores", "unknown", "weights", "failed"],
)
def test_what_may_not_be_compared_says_why(other: Report, why: str) -> None:
    pair = compared(with_weights(a_report(), 86.4), other)
    assert pair.verdict == "not comparable" and why in " ".join(pair.because)


def test_another_backend_may_bring_its_own_software_but_not_its_own_machine() -> None:
    op = a_report(5.0)
    assert compared(op, with_identity(a_report(10.0, "hf"), torch="2.8")).verdict == "slower"
    assert compared(op, with_identity(a_report(10.0, "hf"), cpu="other")).verdict == "not comparable"


def test_a_disturbed_process_is_known_less_well() -> None:
    quiet, base = a_report(11.2), a_report(10.0)
    assert quiet.timing is not None
    noisy = dataclasses.replace(
        quiet, timing=dataclasses.replace(quiet.timing, noisy=True, noisy_because=("x",))
    )
    assert compared(base, quiet).verdict == "slower"
    pair = compared(base, noisy)
    assert pair.verdict == "no difference detected" and "disturbed" in pair.cautions[0]


def test_decisions_on_the_same_samples_are_compared(tmp_path: Path) -> None:
    one = subjects.read(save(a_report(), tmp_path / "one", wrong=0))[0]
    other = subjects.read(save(a_report(), tmp_path / "other", wrong=6))[0]
    answers = pairs.compare(one, other).answers
    assert answers is not None
    assert (answers.samples, answers.only_baseline, answers.only_candidate) == (20, 6, 0)
    assert answers.agreement == 0.7 and answers.p_value == pytest.approx(2 / 2**6)
    relabelled = dataclasses.replace(other, predictions=({**other.predictions[0], "label": 7},))
    assert pairs.answers(one, relabelled) is None


def test_variants_of_two_sweeps_find_each_other_and_the_lonely_are_named(tmp_path: Path) -> None:
    one = subjects.read(save_sweep(tmp_path / "one", {"hf": 1.0, "op": 0.5}, rounds=2))
    other = subjects.read(save_sweep(tmp_path / "other", {"op": 0.5}, rounds=2))
    matched, alone = matching.match([one, [*other, *other]])
    assert [(a.report.spec.backend.name, b.report.spec.backend.name) for a, b in matched] == [("op", "op")]
    assert any(sentence.startswith("hf-") for sentence in alone)
    with pytest.raises(UserError, match="one variant only"):
        matching.match([other])


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = save_sweep(tmp_path / "sweep", {"hf": 1.0, "op": 1.1})
    assert main([str(sweep), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "slower" in said and "backend.name" in said and "Accuracy on the same 20 pairs" in said
    written = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"compare.md", "compare.html", "compare.json", "compare.png"}
    assert "| slower |" in written["compare.md"].read_text()
    assert "<td>slower</td>" in written["compare.html"].read_text()
    assert written["compare.png"].stat().st_size > 5000


@pytest.mark.parametrize("name", ["compare.md", "compare.png", "compare.json"])
def test_a_page_of_somebody_else_s_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    runs = [str(save(a_report(p50), tmp_path / run)) for run, p50 in (("a", 10.0), ("b", 30.0))]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    assert main([*runs, "--output", str(tmp_path / "out")]) == 2
    assert f"holds {name}" in capsys.readouterr().err and (tmp_path / "out" / name).read_text() == "{}"
    (tmp_path / "out" / name).unlink()
    for _ in range(2):
        assert main([*runs, "--output", str(tmp_path / "out")]) == 0


def test_json_is_for_machines_and_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (save(a_report(p50), tmp_path / name) for name, p50 in (("a", 10.0), ("b", 30.0)))
    assert main([str(one), str(other / "report.json"), "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["verdict"] == "slower" and pair["speed"]["ratio"] == pytest.approx(1 / 3)


def test_a_frozen_file_says_the_same_as_its_folder(tmp_path: Path) -> None:
    found = subjects.read(save_sweep(tmp_path / "sweep", {"hf": 1.0, "op": 0.9}))
    write_json(tmp_path / "results.json", frozen(found))
    again = subjects.read(tmp_path / "results.json")
    assert pairs.compare(*again).speed == pairs.compare(*found).speed


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nowhere"],
        ["empty"],
        ["broken.json"],
        ["run"],
        ["run", "run", "--confidence", "2"],
        ["run", "run", "--output", "broken.json"],
        ["run", "run", "--output", "broken.json/below"],
        ["--commits", "x"],
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('{"variants": 3, "format": 1}')
    save(a_report(), tmp_path / "run")
    try:
        status = main(arguments)
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    assert status == 2
    assert "Traceback" not in "".join(capsys.readouterr())


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "no difference detected" in said and "--commits" in said and "repetitions=10" in said
    assert "default 0.975: 1 of 40 equal pairs" in " ".join(said.split())
