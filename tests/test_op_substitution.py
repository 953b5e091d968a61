from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import bert_op
import torch
from op_models import hugging_face, random_batch, random_model, tiny_config


def test_encoders_of_the_original_class_still_copy_and_pickle() -> None:
    with hugging_face():
        model = random_model(tiny_config())
    with torch.no_grad():
        expected = model(**random_batch()).last_hidden_state
        for clone in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
            assert type(clone.encoder) is bert_op.BertEncoderOp.family.encoder
            assert torch.equal(clone(**random_batch()).last_hidden_state, expected)


def test_model_pickled_without_bert_op_loads_with_it(tmp_path: Path) -> None:
    program = (
        "import pickle, sys, torch; from transformers import BertConfig, BertModel; torch.manual_seed(0)\n"
        "model = BertModel(BertConfig.from_dict(eval(sys.argv[2]))).eval()\n"
        "pickle.dump(model, open(sys.argv[1], 'wb')); assert 'bert_op' not in sys.modules\n"
    )
    path, config = tmp_path / "model.pickle", tiny_config()
    result = subprocess.run(
        [sys.executable, "-c", program, str(path), repr(config.to_dict())], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    model = pickle.loads(path.read_bytes())
    assert type(model.encoder) is bert_op.BertEncoderOp
    assert model.encoder.packed_weights is not None
    with torch.no_grad():
        output = model(**random_batch()).last_hidden_state
        expected = bert_op.restore(copy.deepcopy(model))(**random_batch()).last_hidden_state
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)
