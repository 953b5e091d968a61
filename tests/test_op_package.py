"""The package as a whole: what importing it gives and does."""

from __future__ import annotations

import os
import subprocess
import sys

import bert_op
import torch
from bert_op._policy import PRECISIONS
from op_models import hugging_face, runs_op, tiny_config
from transformers import BertModel
from transformers.models.bert import modeling_bert


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_all_is_sorted_and_complete() -> None:
    assert bert_op.__all__ == sorted(bert_op.__all__)
    assert all(hasattr(bert_op, name) for name in bert_op.__all__)


def test_import_substitutes_the_encoder_of_later_models_only() -> None:
    assert modeling_bert.BertEncoder is bert_op.BertEncoderOp
    with hugging_face():
        earlier = BertModel(tiny_config()).eval()
    later = BertModel(tiny_config()).eval()
    assert type(earlier.encoder) is bert_op.BertEncoderOp.family.encoder
    assert not runs_op(earlier.encoder)
    assert type(later.encoder) is bert_op.BertEncoderOp
    assert runs_op(later.encoder)


def test_import_leaves_similar_families_alone() -> None:
    from transformers import MegatronBertConfig, MegatronBertModel, MobileBertConfig, MobileBertModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    for model in (
        MegatronBertModel(MegatronBertConfig(**sizes)),
        MobileBertModel(MobileBertConfig(**sizes, intra_bottleneck_size=64, embedding_size=64)),
    ):
        assert not any(isinstance(module, bert_op.BertEncoderOp) for module in model.modules())


def test_import_waits_for_hugging_faces_module_and_imports_neither_hydra_nor_mlflow() -> None:
    output = run_python(
        "import sys, bert_op\n"
        "print('transformers.models.bert.modeling_bert' in sys.modules)\n"
        "from transformers.models.bert import modeling_bert\n"
        "print(modeling_bert.BertEncoder is bert_op.BertEncoderOp)\n"
        "print(modeling_bert.BertLayer.__module__, type(modeling_bert.__spec__.loader).__name__)\n"
        "print({'hydra', 'omegaconf', 'mlflow', 'harness'} & {name.split('.')[0] for name in sys.modules})"
    )
    assert output.splitlines() == [
        "False",
        "True",
        "transformers.models.bert.modeling_bert SourceFileLoader",
        "set()",
    ]


def test_import_substitutes_in_a_module_that_is_imported_already() -> None:
    output = run_python(
        "from transformers.models.bert import modeling_bert\n"
        "import bert_op\n"
        "print(modeling_bert.BertEncoder is bert_op.BertEncoderOp)"
    )
    assert output.strip() == "True"


def test_environment_sets_the_initial_policy() -> None:
    output = run_python(
        "import bert_op; state = bert_op.explain(); print(state['precision'], state['skip_padding'])",
        BERT_OP_PRECISION="bf16_qint8",
        BERT_OP_SKIP_PADDING="1",
    )
    assert output.split() == ["bf16_qint8", "True"]


def test_state_dict_keys_are_hugging_faces_own() -> None:
    with hugging_face():
        expected = BertModel(tiny_config()).state_dict()
    state = BertModel(tiny_config()).eval().state_dict()
    assert list(state) == list(expected)
    assert {name: value.shape for name, value in state.items()} == {k: v.shape for k, v in expected.items()}


def test_operators_pass_opcheck() -> None:
    model = BertModel(tiny_config()).eval()
    hidden_states, mask = torch.randn(2, 5, 64), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    packed = [model.encoder.packed_weights]
    for attention_mask in (None, mask, mask[:, None, None, :].bool(), torch.randn(2, 2, 5, 5)):
        for skip_padding in (False, True):
            torch.library.opcheck(
                torch.ops.bert_op.encoder.default,
                (hidden_states, attention_mask, packed),
                {"skip_padding": skip_padding},
            )
    weights = [weight.detach() for weight in model.encoder.check(gradients=False).weights]
    sizes = {"num_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    for precision in PRECISIONS:
        torch.library.opcheck(
            torch.ops.bert_op.prepack.default, (weights,), {**sizes, "precision": precision}
        )
