"""Whole models of every family: what runs the original path, what is refused, what is saved."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import bert_op
import pytest
import torch
from bert_op._families import FAMILIES, REFUSED
from bert_op._packed_encoder import PackedEncoder
from family_models import NAMES, batch, encoder_of, family, pair, tiny
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertModel,
    EncoderDecoderModel,
)

CALLED_LIKE_BERT = tuple(known.name for known in FAMILIES if known.call == "bert")


@pytest.mark.parametrize("name", NAMES)
def test_import_and_optimize_put_the_same_class_in_place(name: str) -> None:
    model, reference = pair(name)
    assert type(encoder_of(model)).__name__ == family(name).op_name
    assert type(encoder_of(reference)) is family(name).encoder
    assert list(model.state_dict()) == list(reference.state_dict())
    before = {key: set(vars(module)) for key, module in reference.named_modules()}
    bert_op.optimize(reference, "bf16")
    assert type(encoder_of(reference)) is type(encoder_of(model))
    assert list(reference.state_dict()) == list(model.state_dict())
    assert {layer["path"] for layer in bert_op.explain(reference)["layers"]} == {"op"}
    bert_op.restore(reference)
    assert type(encoder_of(reference)) is family(name).encoder
    assert {key: set(vars(module)) for key, module in reference.named_modules()} == before


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_attentions_and_training_are_hugging_faces(name: str) -> None:
    model, reference = pair(name, _attn_implementation="eager")
    inputs = batch()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", bert_op.BertOpWarning)
        for field in ("hidden_states", "attentions"):
            found, expected = (
                each(**inputs, **{f"output_{field}": True})[field] for each in (model, reference)
            )
            assert len(found) == len(expected) >= 2
            torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert encoder_of(model).op_fallbacks == ["hidden states or attentions are recorded"]
    with pytest.warns(bert_op.BertOpWarning, match="training mode"):
        torch.manual_seed(3)
        model.train()(**inputs).last_hidden_state.square().sum().backward()
    torch.manual_seed(3)
    reference.train()(**inputs).last_hidden_state.square().sum().backward()
    for (key, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), key
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_saved_copied_and_pickled(name: str, tmp_path: Path) -> None:
    model, reference = pair(name)
    inputs = batch()
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        original = reference(**inputs).last_hidden_state
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).eval()
        for again in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(encoder_of(again)) is type(encoder_of(model))
            assert torch.equal(again(**inputs).last_hidden_state, expected)
        clone = pickle.loads(pickle.dumps(reference))
        assert type(encoder_of(clone)) is family(name).encoder
        assert torch.equal(clone(**inputs).last_hidden_state, original)


@pytest.mark.parametrize("name", ["distilbert", "mpnet"])
def test_recorded_graphs(name: str) -> None:
    """The calls that differ from BERT's; BERT's own has its tests in test_op_graphs."""
    model, reference = pair(name)
    inputs = batch()
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
        output = compiled(**inputs).last_hidden_state
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)
        program = torch.export.export(model, (), inputs)
        assert "bert_op.encoder" in str(program.graph)
        output = program.module()(**inputs).last_hidden_state
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)
    assert not encoder_of(model).op_fallbacks


@pytest.mark.parametrize("name", NAMES)
def test_calibrated_factors_are_used(name: str) -> None:
    model, _ = pair(name)
    factors = bert_op.calibrate(model, [batch(), batch(seed=1)])
    assert len(factors) == 16
    bert_op.optimize(model, "fp32_qint8", quantization_factors=factors)
    assert {layer["quantized_activations"] for layer in bert_op.explain(model)["layers"]} == {"static"}
    with torch.no_grad():
        assert model(**batch()).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("name", CALLED_LIKE_BERT)
def test_decoders_run_the_original_path(name: str) -> None:
    model, reference = pair(name, AutoModelForCausalLM, is_decoder=True)
    inputs = batch()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", bert_op.BertOpWarning)
        found, expected = model(**inputs), reference(**inputs)
        without = model(**inputs, use_cache=False).logits
    assert encoder_of(model).op_fallbacks == ["a key/value cache was asked for", "the model is a decoder"]
    torch.testing.assert_close(found.logits, expected.logits, atol=0, rtol=0)
    torch.testing.assert_close(without, expected.logits, atol=0, rtol=0)
    assert len(found.past_key_values) == len(expected.past_key_values) == 2


def test_encoder_of_a_translation_model_runs_the_op_and_its_decoder_does_not() -> None:
    def make() -> EncoderDecoderModel:
        torch.manual_seed(0)
        encoder = AutoModel.from_config(tiny("roberta"))
        decoder = AutoModelForCausalLM.from_config(tiny("bert", is_decoder=True, add_cross_attention=True))
        return EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()

    model, reference = make(), bert_op.restore(make())
    inputs = {**batch(), "decoder_input_ids": batch(3, 5)["input_ids"]}
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="BertEncoderOp runs, because cross"):
        found = model(**inputs).logits
    with torch.no_grad():
        torch.testing.assert_close(found, reference(**inputs).logits, atol=2e-5, rtol=2e-5)
        options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "decoder_start_token_id": 2}
        options |= {"pad_token_id": 0, "eos_token_id": None}
        assert torch.equal(model.generate(**batch(), **options), reference.generate(**batch(), **options))
    fallbacks = bert_op.explain(model)["fallbacks"]
    assert {fallback["encoder"] for fallback in fallbacks} == {"decoder.bert.encoder"}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet"])
def test_tied_weights_stay_tied(name: str, tmp_path: Path) -> None:
    model, reference = pair(name, AutoModelForMaskedLM)
    bert_op.optimize(reference, "fp32", skip_padding=False)
    for each in (model, reference):
        assert each.get_output_embeddings().weight is each.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    with torch.no_grad():
        assert torch.equal(again(**batch()).logits, model(**batch()).logits)
        assert torch.equal(reference(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize("name", ["mpnet", "distilbert"])
def test_masks_are_read_as_the_family_reads_them(name: str) -> None:
    model, reference = pair(name)
    encoder, own = encoder_of(model), encoder_of(reference)
    hidden_states = torch.randn(2, 6, 128)
    number = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", bert_op.BertOpWarning)
        found = encoder(hidden_states, attention_mask=number)[0]
        expected = own(hidden_states, attention_mask=number)[0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    assert bool(encoder.op_fallbacks) == (name == "mpnet")  # which adds whatever it is given


def test_trainable_position_bias_asks_for_the_original_path() -> None:
    model, _ = pair("mpnet")
    model.requires_grad_(False)
    model(**batch())
    assert not encoder_of(model).op_fallbacks
    encoder_of(model).relative_attention_bias.weight.requires_grad_(True)
    with pytest.warns(bert_op.BertOpWarning, match="gradients"):
        assert model(**batch()).last_hidden_state.requires_grad


def test_distilbert_without_layers() -> None:
    model = AutoModel.from_config(tiny("distilbert", n_layers=0)).eval()
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="no layers"):
        model(**batch())
    assert bert_op.explain(model)["layers"] == []


# --- other architectures ---------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 60,
    "hidden_size": 64,
    "embedding_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
BUILT = (
    "albert", "convbert", "deberta", "deberta-v2", "esm", "ibert", "lilt", "luke", "megatron-bert",
    "modernbert", "nystromformer", "rembert", "roberta-prelayernorm", "roformer", "squeezebert", "tapas",
    "visual_bert", "xlm-roberta-xl", "xmod", "yoso",
)  # fmt: skip


@pytest.mark.parametrize("model_type", BUILT)
def test_other_architectures_are_refused_by_name_and_left_alone(model_type: str) -> None:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    sizes = {**SMALL, **special}
    if model_type == "luke":
        sizes |= {"entity_vocab_size": 10, "entity_emb_size": 8}
    if model_type == "lilt":
        sizes |= {"channel_shrink_ratio": 4}
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **sizes)).eval()
    assert not any(isinstance(module, PackedEncoder) for module in model.modules())
    before = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=f"contains no encoder .* {model_type} is another architecture: .+"):
        bert_op.optimize(model, "bf16")
    assert [type(module) for module in model.modules()] == before


def test_reasons_are_about_models_that_hugging_face_has() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert set(REFUSED) <= set(CONFIG_MAPPING_NAMES)
    assert not set(REFUSED) & set(NAMES)


def test_a_changed_subclass_is_refused_without_half_converting() -> None:
    class Changed(family("roberta").encoder):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    model, _ = pair("roberta")
    model.encoder = Changed(model.config)
    with pytest.raises(ValueError, match="contains no encoder"):
        bert_op.optimize(model, "bf16")


def test_import_waits_for_the_modules_of_all_families() -> None:
    modules = sorted({known.module for known in FAMILIES})
    model, _ = pair("camembert")
    program = (
        "import pickle, sys, importlib, importlib.util, bert_op\n"
        f"modules = {modules!r}\n"
        "print([name for name in modules if name in sys.modules])\n"
        "importlib.util.find_spec(modules[0])\n"  # a look is not an import: it must not spend the watch
        # Unpickling names our class before anything has imported the family's module.
        "print(type(pickle.load(sys.stdin.buffer)).__name__)\n"
        "from bert_op._families import FAMILIES\n"
        "for family in FAMILIES:\n"
        "    module = importlib.import_module(family.module)\n"
        "    assert getattr(module, family.encoder_name).__name__ == family.op_name, family\n"
        "    assert family.encoder.__module__ == family.module, family\n"
        "print(len(FAMILIES))\n"
    )
    payload = pickle.dumps(encoder_of(model))
    result = subprocess.run([sys.executable, "-c", program], input=payload, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().split() == ["[]", "CamembertEncoderOp", str(len(FAMILIES))]


def test_bert_model_is_still_berts() -> None:
    assert type(BertModel(tiny("bert")).encoder) is bert_op.BertEncoderOp


def test_a_large_batch_of_mpnet_goes_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its position bias is not multiplied by the whole batch, which is memory that nobody needs."""
    model, _ = pair("mpnet")
    inputs, seen = batch(), []
    run = PackedEncoder.encode

    def noted(self: Any, hidden_states: Any, attention_mask: Any, reason: Any) -> Any:
        seen.append(tuple(attention_mask.shape))
        return run(self, hidden_states, attention_mask, reason)

    monkeypatch.setattr(PackedEncoder, "encode", noted)
    with torch.inference_mode():
        whole = model(**inputs).last_hidden_state
        (count, heads, length, _), *others = seen
        assert not others and count == whole.shape[0] > 1
        for most in (1, 2):
            seen.clear()
            monkeypatch.setattr("bert_op._encoder.MOST_SCORES_BYTES", most * heads * length * length * 4)
            assert torch.equal(model(**inputs).last_hidden_state, whole)
            assert max(shape[0] for shape in seen) == most and sum(shape[0] for shape in seen) == count
        traced = torch.jit.trace(model, example_kwarg_inputs=dict(inputs), strict=False)
        assert torch.equal(traced(**inputs)["last_hidden_state"], whole)
