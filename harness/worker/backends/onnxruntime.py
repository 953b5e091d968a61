"""ONNX Runtime: exported to ONNX, fused by its transformers optimizer; int8 by its dynamic quantization.

Sources: ONNX Runtime's documentation of the transformers optimizer, of quantization and of thread management.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from harness.worker.backends.common import INPUT_NAMES, Head, Runner, Work, check_threads, need, release
from harness.worker.backends.graphs import quiet_tracing
from harness.worker.backends.rebuild import with_eager_attention

PACKAGES = ("onnxruntime", "onnx", "torch", "transformers")
OPSET = 17
FUSED = ("EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu", "Gelu")


def prepare(work: Work) -> Runner:
    """Exports, fuses and loads the model; its torch weights are released.

    RuntimeError where the optimizer did not find the attention of every layer: that would be ONNX Runtime
    without what it is known for.
    """
    onnxruntime = need("onnxruntime", "onnxruntime")
    need("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="onnx-") as folder:
        exported, fused, quantized = (Path(folder) / f"{name}.onnx" for name in ("plain", "fused", "int8"))
        _export(work, exported)
        counts = _fuse(work, exported, fused)
        if work.precision == "fp32_qint8":
            _quantize(fused, quantized)
        path = quantized if quantized.exists() else fused
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    release(work.model)
    observed = session.get_session_options()
    check_threads("ONNX Runtime", work.threads, observed.intra_op_num_threads)

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(INPUT_NAMES, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return Runner(call, None, {"threads": observed.intra_op_num_threads, "fused": counts})


def _export(work: Work, path: Path) -> None:
    # The optimizer looks for attention as it was written before scaled_dot_product_attention.
    head = Head(with_eager_attention(work.model)).eval()
    dynamic = {name: {0: "batch", 1: "seq_len"} for name in INPUT_NAMES}
    with quiet_tracing(), torch.no_grad():
        warnings.simplefilter("ignore")  # how an operator is spelled in ONNX
        torch.onnx.export(
            head, work.example.inputs, str(path), input_names=list(INPUT_NAMES), output_names=["output"],
            dynamic_axes=dynamic, opset_version=OPSET, dynamo=False,
        )  # fmt: skip


def _fuse(work: Work, source: Path, target: Path) -> dict[str, int]:
    """Writes the fused model; returns how many of each fused operator it has."""
    optimizer = need("onnxruntime", "onnxruntime.transformers.optimizer")
    config = work.model.config
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    fused = optimizer.optimize_model(
        str(source), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size,
        opt_level=1,
    )  # fmt: skip
    counts: dict[str, Any] = fused.get_fused_operator_statistics()
    if counts.get("Attention", 0) != config.num_hidden_layers:
        raise RuntimeError(
            f"ONNX Runtime's optimizer fused the attention of {counts.get('Attention', 0)} of "
            f"{config.num_hidden_layers} layers"
        )
    fused.save_model_to_file(str(target))
    return {name: int(counts[name]) for name in FUSED if name in counts}


def _quantize(source: Path, target: Path) -> None:
    quantization = need("onnxruntime", "onnxruntime.quantization")
    logging.getLogger().setLevel(logging.ERROR)  # it advises on every call to do what was done before
    # The types of fused operators' results cannot be inferred; all of them are fp32.
    types = {"DefaultTensorType": need("onnxruntime", "onnx").TensorProto.FLOAT}
    quantization.quantize_dynamic(
        str(source), str(target), weight_type=quantization.QuantType.QInt8, extra_options=types
    )
