"""Errors of the op and of torch, both against Hugging Face in double precision.

As a program: `python op_parity.py cases.pt errors.json` runs the op on saved cases, so that a parent can
force an ISA tier by the environment and need not compute its references once a tier.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bert_op
import torch
from torch import Tensor, nn
from transformers import BertConfig

HuggingFaceEncoder = bert_op.BertEncoderOp.family.encoder
MASK_FORMS = ("none", "padding 2-D", "padding 4-D bool", "padding 4-D additive", "4-D bool", "bias per head")


@dataclass(frozen=True)
class Shape:
    """Sizes of one encoder and its input."""

    batch: int
    seq_len: int
    hidden_size: int
    head_size: int
    intermediate_size: int
    num_layers: int = 2
    hidden_act: str = "gelu"

    def config(self) -> BertConfig:
        return BertConfig(
            hidden_size=self.hidden_size,
            num_attention_heads=self.hidden_size // self.head_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            hidden_act=self.hidden_act,
            attn_implementation="sdpa",
        )


@dataclass(frozen=True)
class Case:
    """An encoder, an input with several masks, and by mask what it should give and how far torch is off."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    hidden_states: Tensor
    masks: dict[str, Tensor | None]
    expected: dict[str, Tensor]
    torch_errors: dict[str, dict[str, float]]


def random_encoder(shape: Shape, seed: int) -> nn.Module:
    """Hugging Face's encoder with weights of the size that trained ones have, biases and LayerNorms too."""
    torch.manual_seed(seed)
    encoder = HuggingFaceEncoder(shape.config()).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter.uniform_(0.5, 1.5)
        elif parameter.dim() == 1:
            parameter.normal_(std=0.1)
        else:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
    return encoder


def random_hidden_states(shape: Shape) -> Tensor:
    return torch.randn(shape.batch, shape.seq_len, shape.hidden_size)


def random_mask(form: str, shape: Shape) -> Tensor | None:
    """A mask of one of `MASK_FORMS`; every query attends to at least one key."""
    batch, seq_len, num_heads = shape.batch, shape.seq_len, shape.hidden_size // shape.head_size
    if form == "none":
        return None
    if form == "bias per head":
        return torch.randn(batch, num_heads, seq_len, seq_len)
    if form == "4-D bool":
        return (torch.rand(batch, 1, seq_len, seq_len) < 0.7) | torch.eye(seq_len, dtype=torch.bool)
    lengths = torch.randint(1, seq_len + 1, (batch, 1))
    keep = torch.arange(seq_len) < lengths
    if form == "padding 2-D":
        return keep.long()
    expanded = keep[:, None, None, :].expand(batch, 1, seq_len, seq_len)
    if form == "padding 4-D bool":
        return expanded
    return torch.zeros(expanded.shape).masked_fill(~expanded, torch.finfo(torch.float32).min)


def make_case(name: str, encoder: nn.Module, hidden_states: Tensor, masks: dict[str, Tensor | None]) -> Case:
    """The references in double precision, and torch's own errors in fp32 and bf16."""

    def run(dtype: torch.dtype) -> dict[str, Tensor]:
        model = copy.deepcopy(encoder).to(dtype)
        return {
            form: model(hidden_states.to(dtype), attention_mask=_as_sdpa_takes_it(mask, dtype))[0].double()
            for form, mask in masks.items()
        }

    assert type(encoder) is HuggingFaceEncoder
    expected = run(torch.float64)
    outputs = {"fp32": run(torch.float32), "bf16": run(torch.bfloat16)}
    return Case(
        name=name,
        config=encoder.config.to_dict(),
        weights=dict(encoder.state_dict()),
        hidden_states=hidden_states,
        masks=masks,
        expected=expected,
        torch_errors={precision: max_errors(output, expected) for precision, output in outputs.items()},
    )


def op_errors(case: Case) -> dict[str, dict[str, float]]:
    """The op's maximal error by precision and mask."""
    config = BertConfig.from_dict(case.config)
    config._attn_implementation = "sdpa"
    encoder = bert_op.BertEncoderOp(config)
    encoder.load_state_dict(case.weights)
    encoder.train(False)
    errors = {}
    for precision in case.torch_errors:
        bert_op.optimize(encoder, precision, skip_padding=False)
        with torch.inference_mode():
            outputs = {form: encoder(case.hidden_states, mask)[0] for form, mask in case.masks.items()}
        errors[precision] = max_errors(outputs, case.expected)
    assert not encoder.op_fallbacks, encoder.op_fallbacks
    return errors


def excess(case: Case, errors: dict[str, dict[str, float]]) -> list[str]:
    """Where the op's error is more than twice torch's, in words."""
    return [
        f"{case.name}, mask {form}, {precision}: {error:.3g} > 2 x {case.torch_errors[precision][form]:.3g}"
        for precision, by_form in errors.items()
        for form, error in by_form.items()
        if not error <= 2 * case.torch_errors[precision][form]
    ]


def max_errors(outputs: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    return {form: (outputs[form].double() - value).abs().max().item() for form, value in expected.items()}


def _as_sdpa_takes_it(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Hugging Face's encoder takes 4-D masks only, additive ones in its own dtype."""
    if mask is not None and mask.dim() == 2:
        return mask[:, None, None, :].bool()
    return mask.to(dtype) if mask is not None and mask.is_floating_point() else mask


def main(cases_path: str, errors_path: str) -> None:
    cases = torch.load(cases_path, weights_only=False)
    result = {"isa": bert_op.explain()["isa"], "errors": [op_errors(case) for case in cases]}
    Path(errors_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
