"""Intel Extension for PyTorch, by its published recipe for BERT: eager attention, optimized, traced, frozen.

int8 is its static quantization; fp32 and bf16 are ipex.optimize. Source: the examples of its documentation.
"""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch

from harness.worker.backends.common import Head, Runner, Work, need
from harness.worker.backends.graphs import quiet_tracing
from harness.worker.backends.rebuild import with_eager_attention

PACKAGES = ("intel_extension_for_pytorch", "torch", "transformers")


def prepare(work: Work) -> Runner:
    """Converts, traces and freezes the model. Needs torch 2.8, the last that the extension was made for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will not be developed further, once for each of its parts
        ipex = need("ipex", "intel_extension_for_pytorch")
        head: torch.nn.Module = Head(with_eager_attention(work.model)).eval()
        with quiet_tracing(), torch.no_grad():
            if work.precision.endswith("qint8"):
                head = _observed(ipex, head, work)
                with _autocast(work.precision):
                    head = ipex.quantization.convert(head)
                    return _frozen(head, work)
            dtype = torch.bfloat16 if work.precision == "bf16" else torch.float32
            head = ipex.optimize(head, dtype=dtype)
            with _autocast(work.precision):
                return _frozen(head, work)


def _observed(ipex: Any, head: torch.nn.Module, work: Work) -> torch.nn.Module:
    """With observers that have seen the calibration batches."""
    mapping = ipex.quantization.default_static_qconfig_mapping
    prepared: torch.nn.Module = ipex.quantization.prepare(
        head, mapping, example_inputs=work.example.inputs, inplace=False
    )
    for batch in work.calibration:
        prepared(*batch.inputs)
    return prepared


def _autocast(precision: str) -> AbstractContextManager[Any]:
    if not precision.startswith("bf16"):
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _frozen(head: torch.nn.Module, work: Work) -> Runner:
    traced = torch.jit.trace(head, work.example.inputs, check_trace=False, strict=False)
    return Runner(torch.jit.freeze(traced), None, {"threads": torch.get_num_threads()})
