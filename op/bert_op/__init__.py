"""A compiled, fused BERT encoder for PyTorch on x86 CPUs.

Importing this package puts `BertEncoderOp` in the place of Hugging Face's `BertEncoder`: models created later
use it. Nothing changes but the speed; `optimize` and `configure` choose more.
"""

from bert_op._calibrate import calibrate
from bert_op._encoder import BertEncoderOp
from bert_op._explain import explain
from bert_op._library import LibraryError, load
from bert_op._optimize import optimize, restore
from bert_op._packed_encoder import BertOpWarning
from bert_op._policy import configure, using
from bert_op._substitution import substitute

__all__ = [
    "BertEncoderOp",
    "BertOpWarning",
    "LibraryError",
    "calibrate",
    "configure",
    "explain",
    "optimize",
    "restore",
    "using",
]

load()
substitute()
