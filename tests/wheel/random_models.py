"""Small random models of every family, by Hugging Face alone: of any version from 4.56 on."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

LENGTH = 12

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
}
OTHER_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 128, "n_heads": 4, "n_layers": 2, "hidden_dim": 192},
    "electra": {**SIZES, "embedding_size": 64},
    "roc_bert": {
        **SIZES,
        "shape_vocab_size": 40,
        "pronunciation_vocab_size": 40,
        "shape_embed_dim": 32,
        "pronunciation_embed_dim": 32,
    },
    "markuplm": {**SIZES, "max_depth": 4, "xpath_unit_hidden_size": 8},
}
TEXT_MODELS = {
    "align_text_model": "AlignText",
    "chinese_clip_text_model": "ChineseCLIPText",
    "clap_text_model": "ClapText",
}


def new_config(name: str, attention: str = "eager", **changes: Any) -> Any:
    sizes = OTHER_SIZES.get(name, SIZES)
    sizes = {**sizes, "vocab_size": 120, "max_position_embeddings": 160}
    if name in TEXT_MODELS:
        made = getattr(transformers, f"{TEXT_MODELS[name]}Config")(**sizes)
    else:
        made = transformers.AutoConfig.for_model(name, **sizes)
    made._attn_implementation = attention
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def new_model(name: str, attention: str = "eager", auto: str = "AutoModel", **changes: Any) -> Any:
    """A model in evaluation mode, its weights of the size that trained ones have."""
    made = new_config(name, attention, **changes)
    if auto == "AutoModel" and name in TEXT_MODELS:
        model = getattr(transformers, f"{TEXT_MODELS[name]}Model")._from_config(made)
    else:
        model = getattr(transformers, auto).from_config(made)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() != 1:
                std = 1.0 if "embedding" in key else parameter.shape[1] ** -0.5
                parameter.normal_(std=std, generator=generator)
            elif key.lower().endswith(("layernorm.weight", "layer_norm.weight")):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def batch(*, padded: bool) -> dict[str, Tensor]:
    input_ids = torch.randint(5, 120, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([[LENGTH], [7], [2]] if padded else [[LENGTH]] * 3)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(LENGTH) < lengths).long()}
