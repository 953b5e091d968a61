"""What the processor can do at most, measured in the same run, so that rates travel between machines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

SECONDS = 0.2

# The operands of the linear layers, as bert_op's kernels call their types.
ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16", "fp32_qint8": "u8", "bf16_qint8": "u8"}


def measure_peak(precision: str, threads: int) -> float | None:
    """Operations per second of `threads` threads that do nothing but multiply and add in registers, in the
    type of the linear layers of `precision`, on the tier that the op uses. None where the op is not installed
    or its build is too old to be asked.
    """
    try:
        import bert_op  # noqa: F401 - loads the operators
        import torch

        measure = torch.ops.bert_op.measure_peak
    except (ImportError, AttributeError):
        return None

    def one_thread(_: int) -> float:
        return float(measure(ELEMENT_TYPES[precision], SECONDS))

    # The measuring loop holds no lock of Python, so the threads run side by side and share clock and power.
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(one_thread, range(threads)))


def fraction(tflops: float | None, roof: float | None) -> float | None:
    """Share of `roof` (operations per second) that `tflops` (1e12 a second) is; None where one is not known.

    Nor is there one above 1: such a roof was measured while something else had the processor, and is none.
    """
    if tflops is None or roof is None or tflops * 1e12 > roof:
        return None
    return tflops * 1e12 / roof
