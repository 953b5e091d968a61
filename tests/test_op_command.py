"""`python -m bert_op`: one screen, a recommendation that follows from the times, errors in one paragraph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from bert_op import __main__ as command
from bert_op import _gains
from bert_op._gains import Gains, measure, recommendation
from bert_op._library import started_as_command
from bert_op._machine import Machine, this_machine
from bert_op._policy import PRECISIONS

CONTENDERS = ("Hugging Face fp32", "Hugging Face bf16", *(f"bert_op {precision}" for precision in PRECISIONS))


@pytest.fixture(scope="module")
def machine() -> Machine:
    return this_machine()


def gains(hf_bf16: float, fp32: float, fp32_qint8: float, bf16: float, bf16_qint8: float) -> Gains:
    """How many times as fast as Hugging Face in fp32 each is, at two shapes that differ in size only."""
    speeds = (1.0, hf_bf16, fp32, fp32_qint8, bf16, bf16_qint8)
    small = {name: 0.002 / speed for name, speed in zip(CONTENDERS, speeds, strict=True)}
    return Gains(
        {"4 x 128": {name: 30 * time for name, time in small.items()}, "1 x 16": small},
        {"4 x 128": 9, "1 x 16": 99},
    )


def fits_a_screen(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) <= 24 and max(map(len, lines)) <= 80


def test_one_screen(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    text = capsys.readouterr().out
    assert text == command.machine_text(machine) + "\n"
    assert fits_a_screen(text)
    for said in (
        machine.tier,
        machine.commit[:10],
        machine.torch,
        "transformers",
        "bert-generation",
        "follows",
    ):
        assert said in text


def test_a_machine_at_its_worst_fits_the_screen_too(machine: Machine) -> None:
    worst = replace(
        machine,
        dirty=True,
        cpu="Intel(R) Xeon(R) Platinum 8488C with a name that is longer than the line it stands in, 2.40GHz",
        tier="avx512",
        tier_best="amx",
        tier_cap="avx512",
        bf16_instructions=False,
        cores=192,
        cores_affinity=192,
        cores_quota=2.5,
        threads=96,
        threads_op=3,
        torch="2.14.1+cu130",
        library="/home/somebody/" + "a-long-name/" * 6 + "site-packages/bert_op/libBertOpPT.so",
        library_from="the checkout /home/somebody/" + "a-long-name/" * 4,
        families=machine.families[3:],
        families_left={name: f"reason {name}" for name in machine.families[:3]},
        skip_padding=True,
    )
    text = command.machine_text(worst)
    assert fits_a_screen(text)
    for said in (
        "avx512; this CPU has amx (BERT_OP_MAX_ISA=avx512); no bf16",
        "192 of 192 by affinity, a quota of 2.5; torch uses 96, too many: set",
        "OMP_NUM_THREADS=3",
        "Not bert, roberta, xlm-roberta: --json says why",
        "skipping padding",
    ):
        assert said in " ".join(text.split())
    measured = gains(0.5, 1.2, 1.5, 1.6, 2.0)
    brief = command.machine_text(worst, brief=True)
    assert fits_a_screen(
        brief + "\n" + command.gains_text(measured, replace(machine, cores=2), load_before=9.0)
    )


def test_without_transformers_it_says_so(machine: Machine, monkeypatch: Any, capsys: Any) -> None:
    left = dict.fromkeys(machine.families, "transformers is not installed")
    bare = replace(machine, transformers=None, transformers_fits=None, families=(), families_left=left)
    text = command.machine_text(bare)
    assert "not installed: pip install transformers" in text
    assert f"0 of {len(left)} substituted. Not any: transformers is not installed" in text
    monkeypatch.setattr("bert_op._machine.this_machine", lambda: bare)
    assert command.main(["--measure"]) == 2
    assert "--measure needs transformers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "taken"),
    [
        (gains(1.5, 1.3, 1.8, 2.5, 4.0), "bf16_qint8"),
        (gains(1.5, 1.3, 1.8, 2.5, 2.7), "bf16"),  # int8 has to gain a tenth
        (gains(0.3, 1.3, 2.2, 0.9, 2.3), "fp32_qint8"),
        (gains(0.3, 1.3, 1.4, 0.9, 1.4), "fp32"),
        (gains(3.0, 1.3, 1.4, 2.0, 2.5), None),  # Hugging Face in bf16 is faster
        (gains(0.5, 0.9, 0.9, 0.9, 0.9), None),
    ],
)
def test_recommendation_takes_what_gains_enough_for_its_error(measured: Gains, taken: str | None) -> None:
    sentence, code = recommendation(measured)
    if taken is None:
        assert ("gains nothing here" in sentence, code) == (True, None)
    else:
        speed = measured.gain(f"bert_op {taken}")
        assert sentence.startswith(f"Take {taken}, {speed:.1f} times as fast as Hugging Face in fp32.")
        assert code == f'model = bert_op.optimize(model, "{taken}")'


def test_gain_is_the_geometric_mean_over_the_shapes() -> None:
    measured = Gains({"a": {_gains.BASE: 4.0, "x": 1.0}, "b": {_gains.BASE: 1.0, "x": 1.0}}, {})
    assert (measured.gain("x"), measured.gain("x", "a")) == (2.0, 4.0)


def test_measuring(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_gains, "SHAPES", ((1, 16), (1, 8)))
    monkeypatch.setattr(_gains, "_LEAST_ROUNDS", 2)
    monkeypatch.setattr(_gains, "measure", lambda: measure(seconds=0))
    assert command.main(["--measure", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"tier", "cores_quota", "families", "measured"} <= set(printed)
    assert printed["measured"]["rounds"] == {"1 x 16": 2, "1 x 8": 2}
    for times in printed["measured"]["shapes"].values():
        assert set(times) == set(CONTENDERS)
        assert all(time > 0 for time in times.values())
    assert command.main(["--measure"]) == 0
    assert fits_a_screen(capsys.readouterr().out)


def test_contenders_compute_the_same_layer() -> None:
    hidden_states = torch.randn(1, 8, 768)
    with torch.inference_mode():
        outputs = {name: run(hidden_states)[0].float() for name, run in _gains._contenders().items()}
    assert set(outputs) == set(CONTENDERS)
    expected = outputs.pop("Hugging Face fp32")
    for name, output in outputs.items():
        assert 0 < (output - expected).norm() < 0.05 * expected.norm(), name


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0)])
def test_an_error_of_the_library_is_one_paragraph(arguments: list[str], status: int) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bert_op", *arguments],
        env={**os.environ, "BERT_OP_PT_LIB": "/nowhere/x.so"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stderr
    assert bool(result.stdout) == (status == 0)
    lines = result.stderr.splitlines()
    assert len(lines) == (1 if status else 0)
    assert all(line.startswith("bert_op: BERT_OP_PT_LIB=/nowhere/x.so does not exist.") for line in lines)


@pytest.mark.parametrize(
    ("argv", "orig_argv", "expected"),
    [
        (["-m", "--json"], ["python", "-m", "bert_op", "--json"], True),
        (["-m"], ["python", "-W", "ignore", "-m", "bert_op"], True),
        (["-m"], ["python", "-m", "harness"], False),
        (["script.py", "-m", "bert_op"], ["python", "script.py", "-m", "bert_op"], False),
        ([""], ["python"], False),
    ],
)
def test_only_the_command_keeps_an_import_error_to_itself(
    argv: list[str], orig_argv: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert started_as_command() is expected


def test_unknown_arguments_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(["--mesure-it"])
    assert error.value.code == 2
    with pytest.raises(SystemExit) as error:
        command.main(["--help"])
    assert error.value.code == 0
    assert "python -m bert_op --measure --json" in capsys.readouterr().out
