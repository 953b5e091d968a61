"""Bad arguments to every public operator and function: a Python error, never a signal, never an answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bert_op
import op_bad_arguments
import pytest
import torch
from op_models import random_batch, random_model, tiny_config

ERRORS = {kind.__name__ for kind in op_bad_arguments.ERRORS}


def test_operators_and_kernels_refuse_what_they_cannot_take() -> None:
    program = Path(__file__).parent / "op_bad_arguments.py"
    result = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    *lines, last = result.stdout.splitlines()
    assert result.returncode == 0, f"ended by {result.returncode} in {last!r}\n{result.stderr[-3000:]}"
    assert last == "done"
    assert len(lines) > 120
    assert [line for line in lines if line.split(": ")[-1] not in ERRORS] == []


Call = Callable[[Any], Any]
CALLS: dict[str, tuple[Call, str]] = {
    "optimize no module": (lambda model: bert_op.optimize(3), "nn.Module"),
    "optimize None": (lambda model: bert_op.optimize(None), "nn.Module"),
    "optimize another model": (lambda model: bert_op.optimize(torch.nn.Linear(2, 2)), "no encoder"),
    "optimize unknown precision": (lambda model: bert_op.optimize(model, "int4"), "int4"),
    "optimize a number as precision": (lambda model: bert_op.optimize(model, 8), "8"),
    "optimize a list as precision": (lambda model: bert_op.optimize(model, ["bf16"]), "bf16"),
    "optimize skip_padding as text": (lambda model: bert_op.optimize(model, skip_padding="on"), "'on'"),
    "optimize unknown option": (lambda model: bert_op.optimize(model, quantize=True), "quantize"),
    "optimize too few factors": (
        lambda model: bert_op.optimize(model, "bf16_qint8", quantization_factors=[0.0, 1.0]),
        "quantization_factors",
    ),
    "optimize factors of NaN": (
        lambda model: bert_op.optimize(model, "bf16_qint8", quantization_factors=[float("nan")] * 16),
        "nan",
    ),
    "optimize factors beyond fp32": (
        lambda model: bert_op.optimize(model, "bf16_qint8", quantization_factors=[-1e300, 1e300] * 8),
        "1e\\+300",
    ),
    "configure unknown precision": (lambda model: bert_op.configure(precision="fp16"), "fp16"),
    "configure skip_padding as number": (lambda model: bert_op.configure(skip_padding=3), "3"),
    "using unknown precision": (lambda model: bert_op.using(precision="fp16").__enter__(), "fp16"),
    "calibrate another model": (lambda model: bert_op.calibrate(torch.nn.Linear(2, 2), []), "encoder"),
    "calibrate a single batch": (lambda model: bert_op.calibrate(model, random_batch()), "single batch"),
    "calibrate nothing": (lambda model: bert_op.calibrate(model, []), "no batch"),
    "calibrate numbers": (lambda model: bert_op.calibrate(model, [3]), "int"),
    "profile without an op": (
        lambda model: bert_op.profile(torch.nn.Linear(2, 2), {"input": torch.ones(2)}),
        "no encoder",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_refuse_what_they_cannot_take(name: str) -> None:
    call, message = CALLS[name]
    model = random_model(tiny_config())
    before = bert_op.explain(model)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        call(model)
    after = bert_op.explain(model)
    assert (after["precision"], after["skip_padding"]) == (before["precision"], before["skip_padding"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    model = random_model(tiny_config())
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[3, 4] = value
        with pytest.raises(RuntimeError, match=r"layer\.1\.output\.dense\.weight contains NaN or infinity"):
            model(**random_batch())
