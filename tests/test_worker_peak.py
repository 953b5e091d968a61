"""The roof: one for each precision, for all threads together, absent where nothing can measure it."""

from __future__ import annotations

import sys
import types

import pytest

from harness.values.spec import PRECISIONS
from harness.worker import peak


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types asked of operators that reach 10 operations a second in fp32."""
    types_asked: list[str] = []

    def measure_peak(element_type: str, seconds: float) -> float:
        types_asked.append(element_type)
        return {"f32": 10.0, "bf16": 20.0, "u8": 40.0}[element_type]

    install(monkeypatch, types.SimpleNamespace(measure_peak=measure_peak))
    return types_asked


def install(monkeypatch: pytest.MonkeyPatch, operators: object) -> None:
    torch = types.ModuleType("torch")
    torch.ops = types.SimpleNamespace(bert_op=operators)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "bert_op", types.ModuleType("bert_op"))


@pytest.mark.parametrize(
    ("precision", "roof"), [("fp32", 30.0), ("bf16", 60.0), ("fp32_qint8", 120.0), ("bf16_qint8", 120.0)]
)
def test_all_threads_together(asked: list[str], precision: str, roof: float) -> None:
    assert peak.measure_peak(precision, 3) == roof
    assert len(asked) == 3


def test_every_precision_has_a_type() -> None:
    assert set(peak.ELEMENT_TYPES) == set(PRECISIONS)


@pytest.mark.parametrize(
    ("tflops", "roof", "share"),
    [(0.5, 2e12, 0.25), (2.0, 2e12, 1.0), (2.1, 2e12, None), (None, 2e12, None), (0.5, None, None)],
)
def test_fraction(tflops: float | None, roof: float | None, share: float | None) -> None:
    assert peak.fraction(tflops, roof) == share


def test_absent_without_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, types.SimpleNamespace())
    assert peak.measure_peak("fp32", 1) is None
    monkeypatch.setitem(sys.modules, "bert_op", None)
    assert peak.measure_peak("fp32", 1) is None
