"""Where the time of a forward pass goes."""

from __future__ import annotations

import bert_op
import pytest
import torch
from bert_op._profile import OUTSIDE
from op_models import hugging_face, tiny_config
from transformers import BertModel

PHASES = [
    "gather",
    "qkv",
    "attention",
    "attention_output",
    "attention_norm",
    "intermediate",
    "output",
    "output_norm",
    OUTSIDE,
]


def test_phases_add_up_and_count_their_operations() -> None:
    config = tiny_config()
    model = BertModel(config).eval()
    batch, seq_len = 3, 16
    found = bert_op.profile(model, {"input_ids": torch.ones(batch, seq_len, dtype=torch.long)})
    assert [row.phase for row in found.phases] == PHASES
    assert all(row.seconds >= 0 for row in found.phases)
    operations = {row.phase: row.operations for row in found.phases}
    per_layer = batch * seq_len * config.hidden_size**2
    assert operations["qkv"] == 6 * config.num_hidden_layers * per_layer
    assert operations["attention_output"] == 2 * config.num_hidden_layers * per_layer
    pairs = batch * seq_len**2
    assert operations["attention"] == 4 * config.num_hidden_layers * pairs * config.hidden_size
    assert operations[OUTSIDE] == operations["output_norm"] == 0
    assert str(found).splitlines()[1].split()[0] == "gather"


def test_a_model_without_the_op_has_no_profile() -> None:
    with hugging_face():
        model = BertModel(tiny_config()).eval()
    with pytest.raises(ValueError, match="explain"):
        bert_op.profile(model, {"input_ids": torch.ones(1, 4, dtype=torch.long)})
