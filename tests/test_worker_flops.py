"""The FLOP count against known figures."""

from __future__ import annotations

import pytest

from harness.worker.flops import encoder_flops

BASE = {"num_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
LARGE = {"num_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}


@pytest.mark.parametrize(
    ("size", "seq_len", "gflop"),
    [(BASE, 128, 22.3), (LARGE, 128, 79), (LARGE, 384, 246)],
    ids=["base", "large", "long"],
)
def test_known_models(size: dict[str, int], seq_len: int, gflop: float) -> None:
    assert encoder_flops([seq_len], **size) / 1e9 == pytest.approx(gflop, rel=0.005)


def test_one_token_by_hand() -> None:
    # 4 projections of 2x2, two feed-forward products of 2x3, one score and one context of width 2.
    assert encoder_flops([1], num_layers=1, hidden_size=2, intermediate_size=3) == 2 * (16 + 12) + 8


def test_rows_add_up_and_only_valid_tokens_count() -> None:
    assert encoder_flops([3, 5], **BASE) == encoder_flops([3], **BASE) + encoder_flops([5], **BASE)
