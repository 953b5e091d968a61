"""What is chosen for a layer stays with it when layers are dropped or reordered."""

from __future__ import annotations

from typing import Any

import bert_op
import pytest
import torch
from family_models import batch, encoder_of, family, pair
from torch import Tensor, nn


def layers(name: str, model: Any) -> list[Any]:
    return list(encoder_of(model).get_submodule(family(name).layers))


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch()).last_hidden_state


@pytest.mark.parametrize("name", ["bert", "distilbert", "mpnet"])
def test_ranges_and_kept_layers_follow_their_layers(name: str, tmp_path: Any) -> None:
    sizes = {"n_layers" if name == "distilbert" else "num_hidden_layers": 4}
    model, reference = pair(name, **sizes)
    for each in (model, reference):
        for layer, size in zip(layers(name, each), (0.1, 9.0, 0.3, 1.0), strict=True):
            layer.get_submodule(family(name).weighted[7]).weight.data.fill_(size)
    ranges = bert_op.calibrate(model, [batch()])
    bert_op.optimize(
        model,
        "fp32_qint8",
        skip_padding=False,
        quantization_factors=ranges,
        keep_layers=[1],
        free_original=False,
    )
    for each in (model, reference):
        encoder_of(each).layer = nn.ModuleList([layers(name, each)[index] for index in (3, 1)])
        each.config.num_hidden_layers = 2
    bert_op.optimize(
        reference,
        "fp32_qint8",
        skip_padding=False,
        quantization_factors=[*ranges[24:32], *ranges[8:16]],
        keep_layers=[1],
    )
    assert torch.equal(outputs(model), outputs(reference))
    found = bert_op.explain(model)["layers"]
    assert [layer["precision"] for layer in found] == ["fp32_qint8", "fp32"]
    assert found[0]["quantized_activations"] == "static"
    policy = encoder_of(model).op_policy
    assert policy.keep_layers == (1,)
    assert policy.quantization_factors == (*ranges[24:32], *ranges[8:16])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert encoder_of(again).op_policy == policy
    assert torch.equal(outputs(again), outputs(model))
    assert not any("_bert_op" in vars(module) for module in bert_op.restore(model).modules())


def test_model_truncated_and_saved_at_once_can_be_loaded(tmp_path: Any) -> None:
    model, _ = pair("bert", num_hidden_layers=3)
    ranges = bert_op.calibrate(model, [batch()])
    bert_op.optimize(model, "bf16_qint8", quantization_factors=ranges, keep_layers=[2])
    del model.encoder.layer[0]
    model.config.num_hidden_layers = 2
    model.save_pretrained(tmp_path)
    with pytest.warns(bert_op.BertOpWarning, match=r"written for 3 layers, and the model has 2.*model once"):
        again = type(model).from_pretrained(tmp_path)
    assert encoder_of(again).op_policy.keep_layers == ()
    assert encoder_of(again).op_policy.precision == "bf16_qint8"
    torch.testing.assert_close(outputs(again.eval()), outputs(model), atol=0.2, rtol=0.2)
