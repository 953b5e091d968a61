"""Families that know no token types, DistilBERT and MPNet: from a checkpoint's folder to the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import bert_op  # noqa: F401  (so that its substitution, which lasts, is undone below and not met half-way)
import pytest
import torch
import transformers
from transformers.models.distilbert import modeling_distilbert
from transformers.models.mpnet import modeling_mpnet
from worker_tools import PAIRS, WORDS, path_model, run_spec, write_pairs

from harness.values.report import SPEC_FILE, Report
from harness.values.spec import BackendSpec, BatchSpec, DataSpec, RunSpec
from harness.worker.__main__ import main
from harness.worker.flops import encoder_flops

# Of a model type: its tokenizer's class, and its names of [PAD], [UNK], [CLS], [SEP] and [MASK].
TOKENIZERS = {
    "distilbert": ("DistilBertTokenizer", WORDS[:5]),
    "mpnet": ("MPNetTokenizer", ("<pad>", "[UNK]", "<s>", "</s>", "<mask>")),
}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDTH = {"distilbert": {"hidden_dim": 128}, "mpnet": {"intermediate_size": 128, "pad_token_id": 0}}


@pytest.fixture(scope="module", autouse=True)
def own_encoders() -> Iterator[None]:
    """Hugging Face's own encoders, as in a fresh process that measures them."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((modeling_distilbert, "Transformer"), (modeling_mpnet, "MPNetEncoder")):
            own = next(c for c in getattr(module, name).__mro__ if c.__module__ == module.__name__)
            patch.setattr(module, name, own)
        yield


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp(request.param), request.param, transformers.AutoModelForSequenceClassification
    )


def make_checkpoint(folder: Path, model_type: str, kind: type) -> Path:
    """A tiny random checkpoint with a tokenizer."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=len(WORDS), max_position_embeddings=48, **SIZES, **WIDTH[model_type]
    )
    model = kind.from_config(config)
    with torch.no_grad():  # the default initialisation makes all logits nearly equal
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    model.save_pretrained(folder)
    tokenizer, special = TOKENIZERS[model_type]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS[5:]]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer}))
    return folder


def carry_out(spec: RunSpec, folder: Path) -> Report:
    folder.mkdir(exist_ok=True)
    spec.write(folder / SPEC_FILE)
    main([str(folder / SPEC_FILE)])
    return Report.read(folder)


@pytest.mark.parametrize("backend", ["hf", "op"])
@pytest.mark.parametrize("graph", ["eager", "jit", "export"])
def test_a_classifier_is_scored_and_timed(classifier: Path, tmp_path: Path, backend: str, graph: str) -> None:
    spec = run_spec(
        path_model(classifier),
        data=DataSpec("pairs", path=str(write_pairs(tmp_path / "pairs.tsv")), samples="all"),
        backend=BackendSpec(backend, graph),
        batch=BatchSpec(2, 24, tokens="text"),
    )
    report = carry_out(spec, tmp_path / "run")
    assert report.status == "finished", report.failure
    assert report.identity.task == "paraphrase-classification"
    assert report.accuracy is not None and report.timing is not None and report.timing.tflops is not None
    assert (report.accuracy.samples, report.accuracy.agreement) == (len(PAIRS), 1.0)
    assert report.accuracy.logit_max_abs is not None and report.accuracy.logit_max_abs < 1e-3
    assert report.accuracy.cosine_min is not None and report.accuracy.cosine_min > 0.9999
    assert report.timing.valid_tokens_per_call > 2 * 5
    assert bool(report.op) == (backend == "op")


@pytest.mark.parametrize("model_type", list(TOKENIZERS))
def test_an_encoder_is_timed(tmp_path: Path, model_type: str) -> None:
    folder = make_checkpoint(tmp_path / "encoder", model_type, transformers.AutoModel)
    spec = run_spec(path_model(folder), backend=BackendSpec("op", "jit"), precision="bf16_qint8")
    report = carry_out(spec, tmp_path / "run")
    assert report.status == "finished", report.failure
    assert report.op["precision"] == "bf16_qint8" and report.timing is not None
    assert report.timing.tflops is not None
    flops = encoder_flops([8, 8], num_layers=2, hidden_size=64, intermediate_size=128)
    calls_per_s = report.timing.throughput_sps / 2
    assert report.timing.tflops == pytest.approx(flops * calls_per_s / 1e12)
    assert report.accuracy is not None and report.accuracy.accuracy is None
    assert report.accuracy.absent_because is not None and "no task head" in report.accuracy.absent_because


def test_peers_say_that_they_do_not_take_them(classifier: Path, tmp_path: Path) -> None:
    spec = run_spec(path_model(classifier), backend=BackendSpec("openvino", "own"))
    failure = carry_out(spec, tmp_path / "run").failure
    assert failure is not None and failure.kind == "user"
    assert "backend='openvino': measures no model without token types" in failure.message
    assert "backend=hf or backend=op" in failure.message
