"""Every family is at most twice as far from double precision as torch is in the same dtype."""

from __future__ import annotations

import copy
from typing import Any

import bert_op
import pytest
import torch
from bert_op._encoder import replacement
from bert_op._families import config_of
from family_models import NAMES, as_it_is, encoder_of, family, pair, randomize, tiny
from torch import Tensor, nn

LOWEST = torch.finfo(torch.bfloat16).min  # a float of fp32 as well
SHAPES = ((1, 7), (3, 65))
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def additive_masks(batch: int, seq_len: int, heads: int) -> dict[str, Tensor | None]:
    """Masks that every family takes; in each, every query attends to something."""
    keep = torch.arange(seq_len) < torch.randint(1, seq_len + 1, (batch, 1))
    padding = torch.zeros(batch, 1, 1, seq_len).masked_fill(~keep[:, None, None, :], LOWEST)
    rows = torch.rand(batch, 1, seq_len, seq_len) < 0.3
    rows &= ~torch.eye(seq_len, dtype=torch.bool)
    return {
        "none": None,
        "padding": padding,
        "padding, a row a query": padding.expand(batch, 1, seq_len, seq_len),
        "any": torch.zeros(rows.shape).masked_fill(rows, LOWEST),
        "bias per head": torch.randn(batch, heads, seq_len, seq_len),
    }


def run(encoder: nn.Module, hidden_states: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The encoder's output in double precision, computed in `dtype`."""
    mask = None if mask is None else mask.to(dtype)
    with torch.inference_mode():
        return encoder(hidden_states.to(dtype), attention_mask=mask)[0].double()


def random_encoder(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """The family's own encoder, in fp32."""
    config = tiny(name, **changes)
    # Through SDPA, attention that does not say whether it is causal is causal where there is no mask. Such
    # families do not offer SDPA, or always make a mask.
    unsaid = family(name).call == "plain" and name not in ("distilbert", "chinese_clip_text_model")
    config._attn_implementation = "eager" if unsaid or name == "mpnet" else "sdpa"
    return randomize(family(name).encoder(config), seed).requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
def test_errors_stay_within_twice_torchs(name: str) -> None:
    torch.manual_seed(0)
    encoder = random_encoder(name)
    by_import = replacement(family(name))(config_of(encoder))
    by_import.load_state_dict(encoder.state_dict())
    by_import.eval()
    by_optimize = copy.deepcopy(encoder)
    in_torch = {dtype: copy.deepcopy(encoder).to(dtype) for dtype in (torch.float64, torch.bfloat16)}
    in_torch[torch.float32] = encoder
    inputs = [
        (form, torch.randn(batch, seq_len, 128), mask)
        for batch, seq_len in SHAPES
        for form, mask in additive_masks(batch, seq_len, heads=4).items()
    ]
    problems = []
    for precision, dtype in PRECISIONS.items():
        bert_op.optimize(by_import, precision, skip_padding=False)
        bert_op.optimize(by_optimize, precision, skip_padding=False)
        for form, hidden_states, mask in inputs:
            expected = run(in_torch[torch.float64], hidden_states, mask, torch.float64)
            bound = 2 * (run(in_torch[dtype], hidden_states, mask, dtype) - expected).abs().max()
            output = run(by_import, hidden_states, mask, torch.float32)
            assert torch.equal(run(by_optimize, hidden_states, mask, torch.float32), output)
            error = (output - expected).abs().max()
            if not error <= bound:
                shape = "x".join(map(str, hidden_states.shape))
                problems.append(f"{shape}, {form}, {precision}: {error:.2g} > {bound:.2g}")
    assert not problems
    assert not [*by_import.op_fallbacks, *by_optimize.op_fallbacks]
    assert type(by_import) is type(by_optimize)


@pytest.mark.parametrize("name", ["roberta", "distilbert", "mpnet"])
def test_weights_stored_in_bf16(name: str) -> None:
    torch.manual_seed(1)
    encoder = random_encoder(name).to(torch.bfloat16)
    hidden_states = torch.randn(3, 40, 128)
    mask = additive_masks(3, 40, heads=4)["padding, a row a query"]
    expected = run(copy.deepcopy(encoder).double(), hidden_states.bfloat16(), mask, torch.float64)
    bound = 2 * (run(encoder, hidden_states, mask, torch.bfloat16) - expected).abs().max()
    for precision in PRECISIONS:
        converted = bert_op.optimize(copy.deepcopy(encoder), precision, skip_padding=False)
        assert (run(converted, hidden_states, mask, torch.bfloat16) - expected).abs().max() <= bound
        assert not converted.op_fallbacks


@pytest.mark.parametrize("precision", ["fp32_qint8", "bf16_qint8"])
@pytest.mark.parametrize("name", NAMES)
def test_int8_points_the_same_way(name: str, precision: str) -> None:
    torch.manual_seed(2)
    encoder = random_encoder(name)
    hidden_states = torch.randn(4, 24, 128)
    mask = additive_masks(4, 24, heads=4)["padding"]
    expected = run(encoder, hidden_states, mask, torch.float32)
    output = run(bert_op.optimize(encoder, precision, skip_padding=False), hidden_states, mask, torch.float32)
    assert nn.functional.cosine_similarity(output, expected, dim=-1).mean() > 0.998


@pytest.mark.parametrize("skip_padding", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_padded_batch_of_token_ids(name: str, skip_padding: bool) -> None:
    model, reference = pair(name)
    input_ids = torch.randint(5, 100, (4, 19))
    attention_mask = (torch.arange(19) < torch.tensor([[19], [1], [7], [12]])).long()
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state
        output = bert_op.optimize(model, "fp32", skip_padding=skip_padding)(**inputs).last_hidden_state
    keep = attention_mask.bool()
    torch.testing.assert_close(output[keep], expected[keep], atol=2e-5, rtol=2e-5)
    if skip_padding:
        assert not output[~keep].any()
    else:
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_position_bias_beside_a_fully_masked_row(dtype: torch.dtype) -> None:
    """A sequence without a single token must not disturb the others, nor become NaN."""
    encoder = random_encoder("mpnet").to(dtype)
    hidden_states = torch.randn(3, 9, 128, dtype=dtype)
    keep = torch.tensor([[1] * 9, [0] * 9, [1] * 4 + [0] * 5], dtype=torch.bool)
    mask = torch.zeros(3, 1, 1, 9, dtype=dtype).masked_fill(~keep[:, None, None], torch.finfo(dtype).min)
    with torch.no_grad():
        expected = encoder(hidden_states, attention_mask=mask)[0]
        for skip_padding in (False, True):
            bert_op.optimize(encoder, "fp32", skip_padding=skip_padding)
            output = encoder(hidden_states, attention_mask=mask)[0]
            wanted = expected * keep[..., None] if skip_padding else expected
            tolerance = 2e-5 if dtype == torch.float32 else 0.06
            torch.testing.assert_close(output, wanted, atol=tolerance, rtol=tolerance)
    assert not encoder.op_fallbacks


def test_position_bias_differs_between_heads_and_matters() -> None:
    encoder = random_encoder("mpnet")
    hidden_states = torch.randn(1, 20, 128)
    with torch.no_grad():
        expected = encoder(hidden_states)[0]
        output = bert_op.optimize(encoder, "fp32")(hidden_states)[0]
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)
        encoder.relative_attention_bias.weight.zero_()  # read in every call, not packed
        without = encoder(hidden_states)[0]
        assert not torch.allclose(without, expected, atol=1e-2)
        torch.testing.assert_close(without, bert_op.restore(encoder)(hidden_states)[0], atol=2e-5, rtol=2e-5)


def test_models_made_inside_as_it_is_are_hugging_faces() -> None:
    with as_it_is("roberta"):
        model, _ = pair("roberta")
    assert type(encoder_of(model)) is family("roberta").encoder
