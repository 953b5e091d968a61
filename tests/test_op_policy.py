from __future__ import annotations

import os
import subprocess
import sys
import threading

import bert_op
import pytest
from bert_op import _policy
from bert_op._policy import Policy, check_factors, current_policy, policy_of_config
from op_models import tiny_config
from transformers import BertModel


def test_using_applies_inside_its_block_and_nests() -> None:
    assert current_policy() == Policy()
    with bert_op.using(precision="bf16"):
        with bert_op.using(skip_padding=True):
            assert current_policy() == Policy("bf16", True)
            model = BertModel(tiny_config())
        assert current_policy() == Policy("bf16", False)
    assert current_policy() == Policy()
    assert model.encoder.op_policy == Policy("bf16", True)


def test_using_is_undone_by_an_exception() -> None:
    with pytest.raises(KeyError), bert_op.using(precision="bf16"):
        raise KeyError
    assert current_policy().precision is None


def test_using_concerns_its_own_thread_only() -> None:
    seen = []
    with bert_op.using(precision="bf16"):
        thread = threading.Thread(target=lambda: seen.append(current_policy().precision))
        thread.start()
        thread.join()
    assert seen == [None]


def test_configure_sets_what_later_models_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_policy, "_default", Policy())
    bert_op.configure(precision="bf16_qint8", skip_padding=True)
    model = BertModel(tiny_config())
    bert_op.configure(skip_padding=False)
    assert current_policy() == Policy("bf16_qint8", False)
    assert model.encoder.op_policy == Policy("bf16_qint8", True)


@pytest.mark.parametrize("call", [bert_op.configure, lambda **options: bert_op.using(**options).__enter__()])
def test_unknown_values_are_refused_with_the_choices(call: object) -> None:
    with pytest.raises(
        ValueError, match="'int4' is unknown: choose one of fp32, fp32_qint8, bf16, bf16_qint8"
    ):
        call(precision="int4")  # type: ignore[operator]
    with pytest.raises(TypeError, match="skip_padding='yes'"):
        call(skip_padding="yes")  # type: ignore[operator]
    assert current_policy() == Policy()


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("BERT_OP_PRECISION", "bf17", "choose one of fp32, fp32_qint8, bf16, bf16_qint8"),
        ("BERT_OP_SKIP_PADDING", "maybe", "set it to 1, 0 or auto"),
    ],
)
def test_unknown_environment_values_name_the_variable(variable: str, value: str, remedy: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import bert_op"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert f"{variable}='{value}'" in result.stderr
    assert remedy in result.stderr


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "bf16"),
        ({"use_bfloat16": False}, "fp32"),
        ({"use_quantization": True}, "bf16_qint8"),
        ({"use_bfloat16": False, "use_quantization": True}, "fp32_qint8"),
        ({"use_bfloat16": True, "use_quantization": True}, "bf16_qint8"),
    ],
)
def test_config_attributes_choose_the_precision(attributes: dict[str, bool], expected: str) -> None:
    assert policy_of_config(tiny_config(**attributes), Policy("bf16")).precision == expected


def test_config_factors_are_used_by_the_int8_precisions_only() -> None:
    factors = [-1.0, 1.0] * 8
    quantized = tiny_config(use_quantization=True, quantization_factors=factors)
    assert policy_of_config(quantized, Policy()).quantization_factors == tuple(factors)
    plain = tiny_config(quantization_factors=factors)
    assert policy_of_config(plain, Policy()).quantization_factors == ()


@pytest.mark.parametrize(
    ("factors", "problem"),
    [
        ([0.0, 1.0], "has 2 values, but 2 layers need 16"),
        ([-1.0, 1.0] * 7 + [1.0, -1.0], r"\[14:16\] = \(1.0, -1.0\) is no range"),
        ([-1.0, 1.0] * 7 + [0.0, float("nan")], r"\[14:16\]"),
    ],
)
def test_factors_that_do_not_fit_are_refused(factors: list[float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_factors(factors, num_layers=2)
