"""OpenVINO's runtime: the torch model converted with dynamic shapes; int8 by NNCF's static quantization.

Sources: OpenVINO's documentation on converting PyTorch models, on performance hints and on precision control,
and NNCF's on post-training quantization of transformers.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from harness.worker.backends.common import INPUT_NAMES, Head, Runner, Work, check_threads, need, release
from harness.worker.backends.graphs import quiet_tracing
from harness.worker.tokens import Batch

PACKAGES = ("openvino", "nncf", "torch", "transformers")
OBSERVED = (
    "INFERENCE_NUM_THREADS", "NUM_STREAMS", "INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT",
    "ENABLE_CPU_PINNING",
)  # fmt: skip


def prepare(work: Work) -> Runner:
    """Converts and compiles the model; its torch weights are released.

    The precisions with bf16 let OpenVINO choose bf16 where it can (INFERENCE_PRECISION_HINT); those with int8
    calibrate on work.calibration.
    """
    # What OpenVINO and NNCF would otherwise report home, from a thread inside the measured window.
    os.environ.setdefault("CI", "true")
    openvino = need("openvino", "openvino")
    model = _convert(openvino, work)
    if work.precision.endswith("qint8"):
        model = _quantize(need("openvino", "nncf"), model, work)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",  # one call at a time on all threads, which is how it is called here
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(work.threads),
        "INFERENCE_PRECISION_HINT": "bf16" if work.precision.startswith("bf16") else "f32",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    release(work.model)
    facts = {name: _plain(compiled.get_property(name)) for name in OBSERVED}
    check_threads("OpenVINO", work.threads, int(facts["INFERENCE_NUM_THREADS"]))
    request = compiled.create_infer_request()

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        # The inputs are shared, not copied; the result is copied, since the next call overwrites it.
        return torch.from_numpy(request.infer([tensor.numpy() for tensor in inputs], share_inputs=True)[0])

    return Runner(call, None, {"threads": work.threads, **facts})


def _convert(openvino: Any, work: Work) -> Any:
    head = Head(work.model).eval()
    with quiet_tracing(), torch.no_grad():
        return openvino.convert_model(head, example_input=_named(work.example))


def _quantize(nncf: Any, model: Any, work: Work) -> Any:
    nncf.set_log_level(40)  # errors
    feed = nncf.Dataset(
        list(work.calibration), lambda batch: {name: value.numpy() for name, value in _named(batch).items()}
    )
    size = len(work.calibration)
    return nncf.quantize(model, feed, model_type=nncf.ModelType.TRANSFORMER, subset_size=size)


def _named(batch: Batch) -> dict[str, torch.Tensor]:
    return dict(zip(INPUT_NAMES, batch.inputs, strict=True))


def _plain(value: Any) -> Any:
    """A property as JSON: OpenVINO's own types by the name that they show."""
    return value if isinstance(value, bool | int | float | str) else str(value)
