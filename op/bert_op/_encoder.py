"""The drop-ins for Hugging Face's encoders: one class a family, made when the family is first met.

How an encoder is called differs by version and is read off the installed one (`_seam`). Families differ in
what their encoder returns and adds to the scores, and in nothing else that the operator sees: `CALLS` has one
class for each way, and `replacement` joins it with Hugging Face's own class.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from bert_op._calibrate import FLAG, recorded_into_config
from bert_op._families import FAMILIES, Family, config_of, unexpected_in
from bert_op._packed_encoder import PackedEncoder
from bert_op._policy import current_policy, policy_of_config
from bert_op._recording import recording
from bert_op._seam import MASK_BY_VIEW, RECORDED, Seam, UnexpectedSeam, left_alone, too_old, warn_once

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# The attention implementations that compute what the operator computes; None is Hugging Face's default,
# eager.
_ATTENTION = (None, "eager", "sdpa")

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

    original: ClassVar[type[torch.nn.Module]]
    seam: ClassVar[Seam]
    result: ClassVar[type[BaseModelOutput]] = BaseModelOutput

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if reason := unexpected_in(self, self.family):
            warn_once(left_alone(self.family.name, reason))
            self.__class__ = self.original
        else:
            self.attach(policy_of_config(config, current_policy()))

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run all layers. The arguments and the result are those of Hugging Face's own forward.

        Args:
            hidden_states: (B, S, H).
            attention_mask: None; (B, S), nonzero = attend; or (B or 1, heads or 1, S or 1, S), boolean with
                True = attend, or additive; of MPNet None or additive.
        Raises:
            RuntimeError: the mask does not fit the hidden states, or a weight is not finite.
        """
        call = self.seam.bind(arguments, named)
        if call is None:
            return super().forward(*arguments, **named)  # says what is missing, or given twice
        hidden_states, attention_mask = call[self.seam.hidden_states], call.get(self.seam.attention_mask)
        reason = self._unable(call, hidden_states) or self._mask_reason(attention_mask)
        output = self._encode(hidden_states, attention_mask, reason)
        if output is None:
            return self._original(*arguments, **named)
        return_dict = self.seam.return_dict_of(call)
        if return_dict is None:
            return_dict = config_of(self).return_dict
        return self.result(last_hidden_state=output) if return_dict else (output,)

    def config_reason(self) -> str | None:
        config = config_of(self)
        if getattr(config, FLAG, False):
            return _CALIBRATING
        if config is not None and config._attn_implementation not in _ATTENTION:
            return f"the attention implementation is {config._attn_implementation!r}"
        return None

    def _unable(self, call: dict[str, Any], hidden_states: Tensor) -> str | None:
        """What this call asks for that the operator does not do, or None."""
        if reason := self.seam.asked(call):
            return reason
        if not self.seam.asked_for_recordings and recording():
            return RECORDED
        if hidden_states.device.type != "cpu":
            return f"the hidden states are on device {hidden_states.device.type}"
        if hidden_states.dtype not in _DTYPES:
            return f"the hidden states have dtype {hidden_states.dtype}"
        return None

    def _mask_reason(self, attention_mask: Tensor | None) -> str | None:
        """Why the mask means something else to Hugging Face's forward than to the operator, or None."""
        if self.seam.attention_mask != MASK_BY_VIEW or attention_mask is None or attention_mask.dim() == 2:
            return None
        config = config_of(self)
        by_sdpa = config is not None and config._attn_implementation == "sdpa"
        return None if by_sdpa else "the attention mask is viewed as (batch, length)"

    def _encode(
        self, hidden_states: Tensor, attention_mask: Tensor | None, reason: str | None
    ) -> Tensor | None:
        """`encode`, with whatever else than the mask the family adds to the scaled scores."""
        return self.encode(hidden_states, attention_mask, reason)

    def _original(self, *arguments: Any, **rest: Any) -> Any:
        """Hugging Face's own forward."""
        if getattr(config_of(self), FLAG, False) and not torch.compiler.is_compiling():
            with recorded_into_config(self):
                return super().forward(*arguments, **rest)
        return super().forward(*arguments, **rest)


class _BertCall(_DropIn):
    """Returns what `BertEncoder` does, which can also be a decoder."""

    result = BaseModelOutputWithPastAndCrossAttentions


class _PlainCall(_DropIn):
    """Returns what `LayoutLMEncoder` and DistilBERT's `Transformer` do, which are encoders only."""


# Of what is added to the scores of a part of a batch; the operator has a copy of it.
MOST_SCORES_BYTES = 16 << 20


class _MPNetCall(_DropIn):
    """Adds a relative position bias to the scores, as `MPNetEncoder` does."""

    def _mask_reason(self, attention_mask: Tensor | None) -> str | None:
        additive = attention_mask is None or (
            attention_mask.dim() == 4 and attention_mask.is_floating_point()
        )
        return None if additive else "the attention mask is not additive"  # which is how it reads any mask

    def _encode(
        self, hidden_states: Tensor, attention_mask: Tensor | None, reason: str | None
    ) -> Tensor | None:
        """`encode`, with the position bias (1, heads, S, S), the same for every batch element and layer.

        A mask makes it (B, heads, S, S), so a large batch goes part by part: its rows do not depend on each
        other. Not in a graph, which has to serve any batch. Added up in fp32, where the lowest float of no
        dtype overflows by a bias.
        """
        if reason is not None:
            return self.encode(hidden_states, attention_mask, reason)
        bias: Tensor = self.compute_position_bias(hidden_states[:1])
        if attention_mask is None:
            return self.encode(hidden_states, bias, None)
        bias, batch = bias.float(), hidden_states.shape[0]
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or attention_mask.shape[0] != batch:
            return self.encode(hidden_states, bias + attention_mask.float(), None)
        most = max(1, MOST_SCORES_BYTES // (4 * bias.numel()))
        if most >= batch:
            return self.encode(hidden_states, bias + attention_mask.float(), None)
        outputs: Tensor | None = None  # of the dtype that the parts come in, which under autocast is another
        for begin in range(0, batch, most):
            part = slice(begin, begin + most)
            output = self.encode(hidden_states[part], bias + attention_mask[part].float(), None)
            if output is None:
                return None
            outputs = output.new_empty(hidden_states.shape) if outputs is None else outputs
            outputs[part] = output
        return outputs


CALLS: dict[str, type[_DropIn]] = {"bert": _BertCall, "plain": _PlainCall, "mpnet": _MPNetCall}

_making = threading.RLock()  # the import of a family's module asks for the same class again


def replacement(family: Family) -> type[PackedEncoder]:
    """The class that is put in the place of the family's own encoder class. Imports the family's module.

    Raises:
        UnexpectedSeam: the installed transformers is too old, or has the family otherwise than any known one.
    """
    if reason := too_old():
        raise UnexpectedSeam(reason)
    original, seam, _ = family.encoder, family.seam, family.parts
    with _making:
        if family.op_name not in globals():
            attributes = {
                "__doc__": f"`{family.encoder_name}`, same parameters and state dict. {_DropIn.__doc__}",
                "__module__": __name__,
                "family": family,
                "original": original,
                "seam": seam,
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
                try:
                    return replacement(family)
                except UnexpectedSeam as reason:
                    raise AttributeError(f"{__name__} has no {name}: {reason}") from None
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
