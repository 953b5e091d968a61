"""Masks that Hugging Face takes by broadcasting them: the op does the same, or leaves them to it."""

from __future__ import annotations

import warnings

import pytest
import torch
from family_models import batch, encoder_of, pair
from torch import Tensor

TOLERANCE = 3e-5


def masks(heads: int = 4, rows: int = 3, size: int = 12) -> dict[str, Tensor]:
    keep = batch(rows, size)["attention_mask"].bool()
    bias = torch.linspace(-2, 2, size * size).view(size, size)
    return {
        "(B,1,S,1)": torch.ones(rows, 1, size, 1, dtype=torch.bool),
        "(B,1,S,1) with hidden queries": keep[:, None, :, None],
        "(1,1,1,S)": keep[1:2, None, None, :],
        "(B,1,1,S)": keep[:, None, None, :],
        "(B,H,1,S)": keep[:, None, None, :].repeat(1, heads, 1, 1),
        "(1,H,S,S) additive": torch.stack([bias * head for head in range(heads)])[None],
        "(H,S,S) additive": torch.stack([bias * head for head in range(heads)]),
        "(1,S,S)": torch.ones(size, size, dtype=torch.bool).tril()[None],
        "(S,S)": torch.ones(size, size, dtype=torch.bool).tril(),
        "(S,S) additive": bias,
        "(1,S)": keep[2:3],
        "(S,1)": torch.ones(size, 1, dtype=torch.bool),
        "(B,1,S,1) additive": bias[:, :1].expand(rows, 1, size, 1),
        "(B,1,S,S) double": bias.double().expand(rows, 1, size, size),
        "whole numbers": torch.ones(rows, 1, size, size, dtype=torch.long),
        "query attends nothing": keep[:, None, :, None] & keep[:, None, None, :],
    }


@pytest.mark.parametrize("form", masks())
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_masks_that_hugging_face_broadcasts(name: str, attn_implementation: str, form: str) -> None:
    model, reference = pair(name, attn_implementation=attn_implementation)
    states = torch.randn(3, 12, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = encoder_of(reference)(states, attention_mask=masks()[form])[0]
        except RuntimeError:
            pytest.skip("Hugging Face does not take this mask")
        found = encoder_of(model)(states, attention_mask=masks()[form])[0]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True)
