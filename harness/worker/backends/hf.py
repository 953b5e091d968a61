"""Hugging Face's own model: as it is, in bf16, or with torch's dynamic int8 linear layers."""

from __future__ import annotations

import warnings

import torch

from harness.values.errors import UserError
from harness.worker.backends.common import Head, Runner, Work
from harness.worker.backends.graphs import capture

PACKAGES = ("torch", "transformers")


def prepare(work: Work) -> Runner:
    """Converts the model in place and captures it."""
    facts: dict[str, object] = {"threads": torch.get_num_threads()}
    if work.precision == "bf16":
        work.model.to(torch.bfloat16)
    elif work.precision == "fp32_qint8":
        with warnings.catch_warnings():
            # torch.ao will move to a package of its own; it is still what torch's documentation describes.
            warnings.simplefilter("ignore")
            torch.ao.quantization.quantize_dynamic(
                work.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
            )
        facts["quantized_engine"] = torch.backends.quantized.engine
    elif work.precision != "fp32":
        raise UserError(
            "precision", work.precision, "Hugging Face models have no int8 beside bf16",
            "Use backend=op, or precision=fp32, fp32_qint8 or bf16",
        )  # fmt: skip
    return Runner(capture(Head(work.model).eval(), work.graph, work.example), work.model, facts)
