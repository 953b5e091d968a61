"""`keep_layers`: which layers stay unquantized, what that does, and that options are saved with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from bert_op._packing import pack_layers, read_sources
from op_models import model_pair, random_batch, random_model, tiny_config
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

LAYERS = 4


def model_of(seed: int = 0) -> Any:
    return random_model(tiny_config(num_hidden_layers=LAYERS), seed=seed)


def precisions(model: Any) -> list[str]:
    return [layer["precision"] for layer in bert_op.explain(model)["layers"]]


def hidden(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**random_batch(4, 20)).last_hidden_state


@pytest.mark.parametrize("precision", ["fp32_qint8", "bf16_qint8"])
@pytest.mark.parametrize("skip_padding", [False, True])
def test_kept_layers_are_computed_in_the_unquantized_precision(precision: str, skip_padding: bool) -> None:
    model = bert_op.optimize(model_of(), precision, skip_padding=skip_padding, keep_layers=[1, 3])
    kept = precision.removesuffix("_qint8")
    assert precisions(model) == [precision, kept, precision, kept]
    sources = read_sources(model.encoder, model.encoder.family)
    state = torch.randn(4, 20, 64)
    mask = random_batch(4, 20)["attention_mask"]
    with torch.inference_mode():
        expected = state
        for layer, precision_of_layer in enumerate(precisions(model)):
            arena = pack_layers(sources, [layer], precision_of_layer)
            expected = torch.ops.bert_op.encoder(expected, mask, [arena], skip_padding=skip_padding)
        output = model.encoder(state, mask).last_hidden_state
    assert torch.equal(output, expected)
    packed = bert_op.explain(model)["encoders"][0]["packed"]
    assert [segment["precision"] for segment in packed] == precisions(model)
    assert bert_op.explain(model)["packed_bytes"] == sum(segment["bytes"] for segment in packed)


def test_splitting_the_layers_changes_nothing_by_itself() -> None:
    encoder = model_of().encoder
    sources = read_sources(encoder, encoder.family)
    state, mask = torch.randn(3, 17, 64), random_batch(3, 17)["attention_mask"]
    for precision in ("fp32", "bf16", "bf16_qint8"):
        whole = [pack_layers(sources, range(LAYERS), precision)]
        parts = [pack_layers(sources, part, precision) for part in (range(1), range(1, 3), range(3, 4))]
        for dtype in (torch.float32, torch.bfloat16):
            outputs = [torch.ops.bert_op.encoder(state.to(dtype), mask, arenas) for arenas in (whole, parts)]
            assert torch.equal(*outputs)


def test_every_layer_kept_is_the_unquantized_model_and_the_error_shrinks_on_the_way() -> None:
    model, reference = model_pair(tiny_config(num_hidden_layers=LAYERS))
    exact = hidden(reference)
    errors = []
    for kept in ([], [0, 1], [0, 1, 2, 3]):
        bert_op.optimize(model, "fp32_qint8", skip_padding=False, keep_layers=kept)
        errors.append((hidden(model) - exact).norm().item())
    assert errors[0] > errors[1] > errors[2]
    assert torch.equal(hidden(model), hidden(bert_op.optimize(model, "fp32", skip_padding=False)))


@pytest.mark.parametrize(
    ("keep_layers", "kept"),
    [
        ([], []),
        ([2, 0], [0, 2]),
        ([-1], [3]),
        (["layer.1"], [1]),
        (["encoder.layer.1", "bert.encoder.layer.3", 1], [1, 3]),
        (("layer.3",), [3]),
    ],
)
def test_layers_are_meant_by_index_or_by_the_end_of_their_name(
    keep_layers: list[int | str], kept: list[int]
) -> None:
    model = random_model(tiny_config(num_hidden_layers=LAYERS), BertForSequenceClassification)
    bert_op.optimize(model, "bf16_qint8", keep_layers=keep_layers)
    assert [index for index, precision in enumerate(precisions(model)) if precision == "bf16"] == kept


@pytest.mark.parametrize("keep_layers", [[4], [-5], ["layer.4"], ["pooler"], ["er.1"], ["decoder.layer.1"]])
def test_layers_that_do_not_exist_are_refused(keep_layers: list[int | str]) -> None:
    model = model_of()
    with pytest.raises(ValueError) as caught:
        bert_op.optimize(model, "bf16_qint8", keep_layers=keep_layers)
    for part in ("keep_layers", repr(keep_layers[0]), "encoder.layer.0 to encoder.layer.3", "0 to 3"):
        assert part in str(caught.value)
    assert precisions(model) == ["fp32"] * LAYERS


@pytest.mark.parametrize("keep_layers", ["layer.1", 1, [1.0], [True], [None]])
def test_what_is_no_list_of_layers_is_refused(keep_layers: Any) -> None:
    with pytest.raises(TypeError, match="keep_layers="):
        bert_op.optimize(model_of(), "bf16_qint8", keep_layers=keep_layers)
    with pytest.raises(TypeError, match="keep_layers="):
        bert_op.configure(keep_layers=keep_layers)


def test_a_name_may_mean_one_of_several_encoders() -> None:
    both = nn.ModuleDict({"left": model_of(), "right": model_of(1)})
    bert_op.optimize(both, "bf16_qint8", keep_layers=["right.encoder.layer.2"])
    assert precisions(both).index("bf16") == LAYERS + 2
    assert precisions(both).count("bf16") == 1


def test_models_to_come_take_it_from_the_policy() -> None:
    with bert_op.using(precision="bf16_qint8", keep_layers=["bert.encoder.layer.0", -1]):
        model = model_of()
        with pytest.raises(ValueError, match=r"layer.0 to layer.0"), bert_op.using(keep_layers=["layer.1"]):
            random_model(tiny_config(num_hidden_layers=1))
    assert precisions(model) == ["bf16", "bf16_qint8", "bf16_qint8", "bf16"]


def test_static_factors_are_those_of_the_quantized_layers() -> None:
    model, reference = model_pair(tiny_config(num_hidden_layers=LAYERS))
    factors = bert_op.calibrate(model, [random_batch(4, 20)])
    bert_op.optimize(model, "fp32_qint8", skip_padding=False, keep_layers=[0], quantization_factors=factors)
    packed = bert_op.explain(model)["encoders"][0]["packed"]
    assert [(part["num_layers"], part["static_quantization"]) for part in packed] == [(1, False), (3, True)]
    similarity = nn.functional.cosine_similarity(hidden(model).flatten(), hidden(reference).flatten(), dim=0)
    assert similarity > 0.99


def test_options_are_saved_with_the_model_and_restored(tmp_path: Path) -> None:
    model = model_of()
    factors = bert_op.calibrate(model, [random_batch(4, 20)])
    bert_op.optimize(model, "bf16_qint8", keep_layers=["layer.2"], quantization_factors=factors)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["bert_op"] == {
        "precision": "bf16_qint8",
        "skip_padding": "auto",
        "keep_layers": [2],
        "num_layers": LAYERS,
    }
    again = BertModel.from_pretrained(tmp_path)
    assert again.encoder.op_policy == model.encoder.op_policy
    assert torch.equal(hidden(again), hidden(model))
    bert_op.optimize(again, "fp32", skip_padding=False)  # what is asked for now outranks what was saved
    assert precisions(again) == ["fp32"] * LAYERS
    again.save_pretrained(tmp_path)
    assert precisions(BertModel.from_pretrained(tmp_path)) == ["fp32"] * LAYERS


def test_restore_leaves_the_config_as_it_was() -> None:
    config = tiny_config(use_quantization=True)
    model = random_model(config)
    before = config.to_dict()
    bert_op.optimize(model, "bf16", keep_layers=[0])
    assert config.use_quantization is False
    bert_op.optimize(model, "fp32")
    bert_op.restore(model)
    assert config.to_dict() == before


def test_flags_of_the_config_outrank_what_was_saved(tmp_path: Path) -> None:
    bert_op.optimize(model_of(), "bf16_qint8").save_pretrained(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    config.use_quantization = False
    model = BertModel.from_pretrained(tmp_path, config=config)
    assert precisions(model) == ["bf16"] * LAYERS


@pytest.mark.parametrize(
    ("saved", "complaint"),
    [
        ({"precision": "int4"}, "precision='int4'"),
        ({"keep_layers": [7]}, r"config.bert_op\['keep_layers'\] has 7"),
        ({"speed": 2}, "config.bert_op is"),
        ("fast", "config.bert_op is 'fast'"),
    ],
)
def test_what_a_config_says_wrongly_is_refused(saved: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        BertModel(tiny_config(bert_op=saved))


def test_operator_refuses_layers_of_different_models() -> None:
    small, large = random_model(tiny_config()), random_model(tiny_config(num_attention_heads=1))
    arenas = [model.encoder.packed_weights for model in (small, large)]
    with pytest.raises(RuntimeError, match="not layers of one model"):
        torch.ops.bert_op.encoder(torch.zeros(1, 2, 64), None, arenas)
    with pytest.raises(RuntimeError, match="packed is empty"):
        torch.ops.bert_op.encoder(torch.zeros(1, 2, 64), None, [])


@pytest.mark.parametrize("precision", ["fp32_qint8", "bf16_qint8"])
def test_single_linear_layers_are_kept(precision: str, tmp_path: Path) -> None:
    errors = {}
    exact = hidden(bert_op.optimize(model_of(), "fp32"))
    for kept in ([], ["output"], ["output", "qkv"], list(range(LAYERS))):
        model = bert_op.optimize(model_of(), precision, keep_layers=kept)
        errors[tuple(kept)] = (hidden(model) - exact).norm().item()
    ordered = list(errors.values())
    assert ordered == sorted(ordered, reverse=True) and ordered[0] > 1.1 * ordered[1]
    model = bert_op.optimize(
        model_of(), precision, keep_layers=["encoder.layer.2.output", "1.qkv", "2.qkv", -1]
    )
    assert model.config.bert_op["keep_layers"] == ["1.qkv", "2.qkv", "2.output", 3]
    assert [s["kept_linears"] for s in bert_op.explain(model)["encoders"][0]["packed"]] == [
        [],
        ["qkv"],
        ["qkv", "output"],
        [],
    ]
    model.save_pretrained(tmp_path)
    assert torch.equal(hidden(BertModel.from_pretrained(tmp_path).eval()), hidden(model))


def test_linear_layers_stay_kept_with_their_layer() -> None:
    model = bert_op.optimize(model_of(), "bf16_qint8", keep_layers=["2.intermediate"])
    del model.encoder.layer[0]
    model.config.num_hidden_layers = LAYERS - 1
    hidden(model)
    bert_op.explain(model)
    assert model.config.bert_op["keep_layers"] == ["1.intermediate"]


def test_all_four_linear_layers_are_the_layer() -> None:
    linears = ["1.qkv", "1.attention_output", "1.intermediate", "1.output"]
    model = bert_op.optimize(model_of(), "bf16_qint8", keep_layers=linears)
    assert model.config.bert_op["keep_layers"] == [1]
    assert precisions(model)[1] == "bf16"


def test_unknown_linear_layer_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"'1.pooler'.*single linear layers such as '0.output' \(qkv, "):
        bert_op.optimize(model_of(), "bf16_qint8", keep_layers=["1.pooler"])
