"""A Hugging Face model built again with another attention."""

from __future__ import annotations

import copy

import transformers


def with_eager_attention(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The same model and the same weights (not copied) with attention written as matrix products and a
    softmax, which is the form that graph optimizers recognise.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    rebuilt = type(model)(config)
    rebuilt.load_state_dict(model.state_dict(), assign=True)
    for weight in rebuilt.parameters():
        weight.requires_grad_(False)
    return rebuilt.eval()
