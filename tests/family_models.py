"""Small models of every family that `bert_op` knows, with and without the op."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from bert_op._families import FAMILIES, Family, encoders_of
from torch import Tensor, nn
from transformers import (
    AlignTextModel,
    AutoConfig,
    AutoModel,
    ChineseCLIPTextModel,
    ClapTextModel,
    PretrainedConfig,
)

VOCABULARY = 120
NAMES = tuple(family.name for family in FAMILIES)

_BERT_SIZES = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
}
_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 128, "n_heads": 4, "n_layers": 2, "hidden_dim": 192},
    "electra": {**_BERT_SIZES, "embedding_size": 64},
    "roc_bert": {
        **_BERT_SIZES,
        "shape_vocab_size": 40,
        "pronunciation_vocab_size": 40,
        "shape_embed_dim": 32,
        "pronunciation_embed_dim": 32,
    },
    "markuplm": {**_BERT_SIZES, "max_depth": 4, "xpath_unit_hidden_size": 8},
}


# Parts of larger models, which AutoModel does not make by themselves.
_PARTS = {
    "align_text_model": AlignTextModel,
    "chinese_clip_text_model": ChineseCLIPTextModel,
    "clap_text_model": ClapTextModel,
}


def family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def tiny(name: str, **changes: Any) -> PretrainedConfig:
    """A config of the family: 2 layers, hidden 128, 4 heads of 32."""
    sizes = _SIZES.get(name, _BERT_SIZES)
    sizes = {**sizes, "vocab_size": VOCABULARY, "max_position_embeddings": 160}
    part = _PARTS.get(name)
    config = part.config_class(**sizes) if part else AutoConfig.for_model(name, **sizes)
    for key, value in changes.items():
        setattr(config, key, value)
    return config


@contextmanager
def as_it_is(name: str) -> Iterator[None]:
    """Models of the family that are created inside have Hugging Face's own encoder."""
    known = family(name)
    module = import_module(known.module)
    substituted = getattr(module, known.encoder_name)
    setattr(module, known.encoder_name, known.encoder)
    try:
        yield
    finally:
        setattr(module, known.encoder_name, substituted)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of the size that trained ones have, biases and LayerNorms too; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() != 1:
                std = 1.0 if "embedding" in name else parameter.shape[1] ** -0.5
                parameter.normal_(std=std, generator=generator)
            elif name.lower().endswith(("layernorm.weight", "layer_norm.weight")):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(std=0.1, generator=generator)
    return module.eval()


def pair(name: str, model_class: Any = AutoModel, **changes: Any) -> tuple[Any, Any]:
    """(model that has the op by the import, Hugging Face's own model), with equal weights."""
    config = tiny(name, **changes)
    with as_it_is(name):
        reference = randomize(_create(model_class, config))
    model = _create(model_class, config)
    model.load_state_dict(reference.state_dict())
    return model.eval(), reference


def encoder_of(model: nn.Module) -> Any:
    (encoder,) = encoders_of(model).values()
    return encoder


def batch(rows: int = 3, seq_len: int = 12, seed: int = 0, first_id: int = 5) -> dict[str, Tensor]:
    """Token ids, none of them special, and a mask that pads every sequence but the first."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(first_id, VOCABULARY, (rows, seq_len), generator=generator)
    lengths = torch.tensor([[max(1, seq_len - 3 * row)] for row in range(rows)])
    return {"input_ids": input_ids, "attention_mask": (torch.arange(seq_len) < lengths).long()}


def _create(model_class: Any, config: PretrainedConfig) -> Any:
    if model_class is AutoModel:
        model_class = _PARTS.get(config.model_type, AutoModel)
    create = getattr(model_class, "from_config", model_class)
    return create(config)
