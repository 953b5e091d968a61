"""What importing the package changes in transformers, and what keeps working because of it."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn
from transformers.models.bert import modeling_bert

from bert_op._encoder import BertEncoderOp


def substitute() -> None:
    """Let models created from here on have `BertEncoderOp` where they would have had `BertEncoder`."""
    modeling_bert.BertEncoder = BertEncoderOp
    # pickle finds a class by its name, which now leads to ours: the original class needs another way.
    copyreg.pickle(BertEncoderOp.family.encoder, _reduce_original)


def _reduce_original(encoder: nn.Module) -> tuple[Any, ...]:
    return _new_original, (), encoder.__dict__.copy()


def _new_original() -> nn.Module:
    original: Any = BertEncoderOp.family.encoder
    return original.__new__(original)
