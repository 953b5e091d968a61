"""The drop-in for Hugging Face's BERT encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert import modeling_bert
from transformers.models.bert.modeling_bert import BertConfig, BertEncoder

from bert_op._calibrate import FLAG, recorded_into_config
from bert_op._families import FAMILIES
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import recording
from bert_op._policy import current_policy, policy_of_config
from bert_op._substitution import substitute

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# The attention implementations that compute what the operator computes; None is Hugging Face's default,
# eager.
_ATTENTION = (None, "eager", "sdpa")

# Passed to every encoder and read by none of the code that the operator replaces.
_UNREAD = frozenset({"position_ids", "return_dict"})

_CALIBRATING = f"config.{FLAG} is set"


class BertEncoderOp(PackedEncoder, BertEncoder):
    """`BertEncoder`, same parameters and state dict, computed by one operator call wherever that is right.

    Each forward decides: if the arguments, the mode or the state of the module ask for anything that the
    operator does not do, Hugging Face's own forward runs, and one warning and `bert_op.explain` say why.

    The packed weights follow the parameters. A recorded graph contains them: one from `jit.trace` or `export`
    stays as it was recorded; one from `torch.compile` follows `load_state_dict`, `train`, `eval` and `to`,
    but not other writes to the parameters until the next `eval()`.
    """

    family = FAMILIES[0]

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.attach(policy_of_config(config, current_policy()))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run all layers on `hidden_states` (B, S, H).

        Args:
            attention_mask: None; (B, S), nonzero = attend; or (B or 1, heads or 1, S or 1, S), boolean with
                True = attend, or additive.
        Raises:
            RuntimeError: the mask does not fit the hidden states, or a weight is not finite.
        """
        arguments = (
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            use_cache,
        )
        reason = self._other_than_encoding(*arguments) or _unread_argument(kwargs)
        output = self.encode(hidden_states, attention_mask, reason)
        if output is not None:
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=output)
        if reason == _CALIBRATING and not torch.compiler.is_compiling():
            with recorded_into_config(self):
                return super().forward(*arguments, **kwargs)
        return super().forward(*arguments, **kwargs)

    def _other_than_encoding(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_attention_mask: Tensor | None,
        past_key_values: Any,
        use_cache: bool | None,
    ) -> str | None:
        """What this call or the config asks for that the operator does not do, or None."""
        if getattr(self.config, FLAG, False):
            return _CALIBRATING
        if encoder_hidden_states is not None or encoder_attention_mask is not None:
            return "cross attention was asked for"
        if past_key_values is not None or use_cache:
            return "a key/value cache was asked for"
        if recording():
            return "hidden states or attentions are recorded"
        if self.config._attn_implementation not in _ATTENTION:
            return f"the attention implementation is {self.config._attn_implementation!r}"
        if hidden_states.device.type != "cpu":
            return f"the hidden states are on device {hidden_states.device.type}"
        if hidden_states.dtype not in _DTYPES:
            return f"the hidden states have dtype {hidden_states.dtype}"
        return None


def _unread_argument(kwargs: dict[str, Any]) -> str | None:
    for name, value in kwargs.items():
        if name not in _UNREAD and value is not None and value is not False:
            return f"argument {name} was given"
    return None


substitute(modeling_bert, FAMILIES[0].encoder, BertEncoderOp)
