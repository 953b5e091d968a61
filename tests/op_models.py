"""Small BERT models for the tests of `bert_op`, with and without the op."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bert_op import BertEncoderOp
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert import modeling_bert

VOCABULARY = 120


def tiny_config(**changes: Any) -> BertConfig:
    """2 layers, hidden 64, 2 heads of 32; weights large enough that every part of a layer matters."""
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "attn_implementation": "sdpa",
    }
    return BertConfig(**{**sizes, **changes})


@contextmanager
def hugging_face() -> Iterator[None]:
    """Models created inside the block have Hugging Face's own encoder, as if `bert_op` were not imported."""
    substituted = modeling_bert.BertEncoder
    modeling_bert.BertEncoder = BertEncoderOp.family.encoder
    try:
        yield
    finally:
        modeling_bert.BertEncoder = substituted


def random_model(config: BertConfig, model_class: type = BertModel, seed: int = 0) -> Any:
    """A model in evaluation mode whose biases and LayerNorms are random too."""
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.eval()


def make_output_coarse(layer: nn.Module) -> None:
    """Give a layer's last linear layer weights that meet zeros, but take the resolution of all others of
    their rows in int8."""
    intermediate, output = layer.intermediate.dense, layer.output.dense
    half = intermediate.out_features // 2
    with torch.no_grad():
        intermediate.weight[:half] = 0.0
        intermediate.bias[:half] = -1000.0
        output.weight[:, :half] = 20.0 * torch.randn(output.weight[:, :half].shape).sign()


def model_pair(config: BertConfig, model_class: type = BertModel, seed: int = 0) -> tuple[Any, Any]:
    """(model that uses the op, Hugging Face's own model), with equal weights."""
    with hugging_face():
        reference = random_model(config, model_class, seed)
    model = model_class(config)
    model.load_state_dict(reference.state_dict())
    return model.eval(), reference


def random_batch(batch: int = 3, seq_len: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """Token ids, and a mask that pads every sequence but the first to a different length."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, VOCABULARY, (batch, seq_len), generator=generator)
    attention_mask = torch.ones(batch, seq_len, dtype=torch.long)
    for row in range(1, batch):
        attention_mask[row, max(1, seq_len - 2 * row) :] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def runs_op(encoder: nn.Module) -> bool:
    """Whether a forward of `encoder` reached the operator, which then was called once."""
    torch.ops.bert_op.start_profile()
    try:
        with torch.no_grad():
            encoder(torch.randn(1, 4, encoder.config.hidden_size))
    finally:
        calls = json.loads(torch.ops.bert_op.stop_profile())["calls"]
    return bool(calls)
