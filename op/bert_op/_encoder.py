"""The drop-ins for Hugging Face's encoders: one class a family, made when the family is first met.

Families differ in how their encoder is called and in what it returns, and in nothing else that the operator
sees: `CALLS` has one class for each way, and `replacement` joins it with Hugging Face's own class.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from bert_op._calibrate import FLAG, recorded_into_config
from bert_op._families import FAMILIES, Family, config_of
from bert_op._packed_encoder import PackedEncoder
from bert_op._packing import recording
from bert_op._policy import current_policy, policy_of_config

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# The attention implementations that compute what the operator computes; None is Hugging Face's default,
# eager.
_ATTENTION = (None, "eager", "sdpa")

# Passed to encoders and read by none of the code that the operator replaces; BERT's own call, where a decoder
# reads `use_cache`, names it.
_UNREAD = frozenset({"num_items_in_batch", "position_ids", "return_dict", "use_cache"})

_CALIBRATING = f"config.{FLAG} is set"


class _DropIn(PackedEncoder):
    """What the drop-ins of all families share: same parameters and state dict, computed by one operator call
    wherever that is right.

    Each forward decides: if the arguments, the mode or the state of the module ask for anything that the
    operator does not do, Hugging Face's own forward runs, and one warning and `bert_op.explain` say why.

    The packed weights follow the parameters. A recorded graph contains them: one from `jit.trace` or `export`
    stays as it was recorded; one from `torch.compile` follows `load_state_dict`, `train`, `eval` and `to`,
    but not other writes to the parameters until the next `eval()`.
    """

    # Whether Hugging Face takes hidden states and attentions from hooks on the layers.
    recorded_by_hooks: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.attach(policy_of_config(config, current_policy()))

    def config_reason(self) -> str | None:
        config = config_of(self)
        if getattr(config, FLAG, False):
            return _CALIBRATING
        if getattr(config, "_attn_implementation", None) not in _ATTENTION:
            return f"the attention implementation is {config._attn_implementation!r}"
        return None

    def _unable(self, hidden_states: Tensor, rest: dict[str, Any]) -> str | None:
        """What this call or the config asks for that the operator does not do, or None.

        Args:
            rest: arguments of the call that only the original path reads.
        """
        if reason := self.config_reason():
            return reason
        if self.recorded_by_hooks and recording():
            return "hidden states or attentions are recorded"
        if hidden_states.device.type != "cpu":
            return f"the hidden states are on device {hidden_states.device.type}"
        if hidden_states.dtype not in _DTYPES:
            return f"the hidden states have dtype {hidden_states.dtype}"
        for name, value in rest.items():
            if name not in _UNREAD and value is not None and value is not False:
                return f"argument {name} was given"
        return None

    def _original(self, reason: str | None, *arguments: Any, **rest: Any) -> Any:
        """Hugging Face's own forward."""
        if reason == _CALIBRATING and not torch.compiler.is_compiling():
            with recorded_into_config(self):
                return super().forward(*arguments, **rest)
        return super().forward(*arguments, **rest)


class _BertCall(_DropIn):
    """Called as `BertEncoder`, which can also be a decoder."""

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
        if encoder_hidden_states is not None or encoder_attention_mask is not None:
            reason: str | None = "cross attention was asked for"
        elif past_key_values is not None or use_cache:
            reason = "a key/value cache was asked for"
        else:
            reason = self._unable(hidden_states, kwargs)
        output = self.encode(hidden_states, attention_mask, reason)
        if output is not None:
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=output)
        return self._original(
            reason,
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            use_cache,
            **kwargs,
        )


class _PlainCall(_DropIn):
    """Called as `LayoutLMEncoder` and DistilBERT's `Transformer`, which are encoders only."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutput:
        """Run all layers on `hidden_states` (B, S, H); the mask and the errors are those of BERT's."""
        reason = self._unable(hidden_states, kwargs)
        output = self.encode(hidden_states, attention_mask, reason)
        if output is not None:
            return BaseModelOutput(last_hidden_state=output)
        return self._original(reason, hidden_states, attention_mask, **kwargs)


class _MPNetCall(_DropIn):
    """Called as `MPNetEncoder`, which adds a relative position bias to the scores and may return a tuple."""

    recorded_by_hooks = False  # it is asked for them by arguments

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """Run all layers on `hidden_states` (B, S, H).

        Args:
            attention_mask: None or additive, (B or 1, heads or 1, S or 1, S).
        Raises:
            RuntimeError: the mask does not fit the hidden states, or a weight is not finite.
        """
        if output_attentions or output_hidden_states:
            reason: str | None = "hidden states or attentions are recorded"
        elif attention_mask is not None and (
            attention_mask.dim() != 4 or not attention_mask.is_floating_point()
        ):
            reason = "the attention mask is not additive"  # which is how this family reads any mask
        else:
            reason = self._unable(hidden_states, kwargs)
        scores_bias = None if reason else self._scores_bias(hidden_states, attention_mask)
        output = self.encode(hidden_states, scores_bias, reason)
        if output is None:
            flags = (output_attentions, output_hidden_states, return_dict)
            return self._original(reason, hidden_states, attention_mask, *flags, **kwargs)
        return BaseModelOutput(last_hidden_state=output) if return_dict else (output,)

    def _scores_bias(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What is added to the scaled scores, (B or 1, heads, S, S): the bias is the same for every batch
        element and layer. Added up in fp32, where the lowest float of no dtype overflows by a bias."""
        bias: Tensor = self.compute_position_bias(hidden_states[:1])
        return bias if attention_mask is None else bias.float() + attention_mask.float()


CALLS: dict[str, type[_DropIn]] = {"bert": _BertCall, "plain": _PlainCall, "mpnet": _MPNetCall}

_making = threading.RLock()  # the import of a family's module asks for the same class again


def replacement(family: Family) -> type[PackedEncoder]:
    """The class that is put in the place of the family's own encoder class. Imports the family's module."""
    original = family.encoder
    with _making:
        if family.op_name not in globals():
            attributes = {
                "__doc__": f"`{family.encoder_name}`, same parameters and state dict. {_DropIn.__doc__}",
                "__module__": __name__,
                "family": family,
                "original": original,
            }
            # By this name, in this module, pickle finds it.
            globals()[family.op_name] = type(family.op_name, (CALLS[family.call], original), attributes)
    made: type[PackedEncoder] = globals()[family.op_name]
    return made


if TYPE_CHECKING:
    BertEncoderOp = _BertCall
else:

    def __getattr__(name: str) -> type[PackedEncoder]:
        for family in FAMILIES:
            if family.op_name == name:
                return replacement(family)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
