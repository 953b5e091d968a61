"""A compiled, fused BERT encoder for PyTorch on x86 CPUs.

Importing this package puts `BertEncoderOp` in the place of Hugging Face's `BertEncoder`: models created later
use it. Nothing changes but the speed; `optimize` and `configure` choose more.
"""

from transformers.models.bert import modeling_bert

from bert_op import _library

_library.load()

from bert_op import _fake  # noqa: E402, F401 - the operators have to be registered first
from bert_op._calibrate import calibrate  # noqa: E402
from bert_op._encoder import BertEncoderOp  # noqa: E402
from bert_op._explain import explain  # noqa: E402
from bert_op._library import LibraryError  # noqa: E402
from bert_op._optimize import optimize, restore  # noqa: E402
from bert_op._packed_encoder import BertOpWarning  # noqa: E402
from bert_op._policy import PRECISIONS, configure, using  # noqa: E402

__all__ = [
    "PRECISIONS",
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

modeling_bert.BertEncoder = BertEncoderOp
