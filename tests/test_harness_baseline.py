"""Who a speed-up is against."""

from __future__ import annotations

import pytest
from harness_fixtures import a_spec

from harness.ask.arguments import quote_baseline
from harness.compare import matching
from harness.judge import baseline
from harness.judge.variants import Subject
from harness.values.errors import UserError
from harness.values.report import Report, Timing
from harness.values.spec import BackendSpec, BatchSpec


def a_report(backend: str, precision: str, size: int = 2, seed: int = 0) -> Report:
    graph = "eager" if backend == "hf" else "jit"
    spec = a_spec(
        backend=BackendSpec(backend, graph), precision=precision, batch=BatchSpec(size, 8), seed=seed
    )
    return Report(spec, "finished", timing=Timing(9, 1.0, size, 8, {"p50": 1.0}, 1.0, 16.0))


HF, OP, OP_BF16 = a_report("hf", "fp32"), a_report("op", "fp32"), a_report("op", "bf16")


def test_without_a_choice_it_is_hugging_face_and_without_that_fp32() -> None:
    assert baseline.of(OP_BF16, [OP, HF, OP_BF16]) is HF
    assert baseline.of(OP_BF16, [OP, OP_BF16]) is OP
    assert baseline.of(OP, [OP, a_report("op", "fp32", seed=1)]) is None, "nothing to be faster than"


@pytest.mark.parametrize("text", ["op-fp32", "contender=op-fp32", "backend=op precision=fp32"])
def test_a_contender_or_settings_name_it(text: str) -> None:
    assert baseline.of(OP_BF16, [HF, OP, OP_BF16], text) is OP


def test_of_several_it_is_the_closest() -> None:
    assert baseline.of(OP_BF16, [HF, OP, OP_BF16], "precision=fp32") is OP
    assert baseline.of(a_report("hf", "bf16"), [HF, OP, OP_BF16], "precision=fp32") is HF


def test_other_work_is_no_baseline_unless_it_is_meant() -> None:
    large, small = a_report("op", "bf16", 8), OP_BF16
    assert baseline.of(large, [small, large], "op-bf16") is large
    assert baseline.of(large, [small], "op-bf16") is None
    assert baseline.of(large, [small, large], "batch=2") is small


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ipex-fp32", "none of the sweep's jobs. Name one of hf-fp32, op-bf16"),
        ("foo=1", "foo is no setting"),
        ("precision=", "no setting with a value"),
        ("hf-fp32 seed=0", "no setting with a value"),
        (" ", "names nothing"),
    ],
)
def test_what_names_no_job_is_refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        baseline.check(text, [HF.spec, OP_BF16.spec])


def test_settings_can_be_typed_without_quotes_for_hydra() -> None:
    typed = ["baseline=precision=fp32", "baseline=hf-bf16", "batch=4"]
    assert quote_baseline(typed) == ['baseline="precision=fp32"', *typed[1:]]


def test_within_a_sweep_each_variant_finds_the_baseline_of_its_own_work() -> None:
    large, small = (a_report("op", "bf16", size) for size in (8, 2))
    variants = [Subject("s", one) for one in (a_report("op", "fp32", 2), small, large)]
    found, alone = matching.match([variants], "precision=fp32")
    assert found == [(variants[0], variants[1])]
    assert len(alone) == 1 and "8x8" in alone[0] and "same work" in alone[0]


def test_a_baseline_of_several_results_is_refused() -> None:
    with pytest.raises(UserError, match=r"--baseline.*one sweep"):
        matching.match([[Subject("a", OP)], [Subject("b", OP)]], "op-fp32")
