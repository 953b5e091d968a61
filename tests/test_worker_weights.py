"""Where weights come from, what is refused, and that what was taken is said."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from worker_tools import ARCHITECTURE, edit_config, make_checkpoint, path_model, shared

from harness.values.errors import UserError
from harness.values.spec import FAMILIES, ModelSpec
from harness.worker import weights
from harness.worker.accuracy import position_limit
from harness.worker.backends.common import Head
from harness.worker.tokens import random_batch

pytestmark = pytest.mark.usefixtures("hugging_face_as_it_is")

OFFLINE = "the hub cannot be reached"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As harness.worker.hub leaves a worker that cannot reach the hub: nobody waits for an answer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, for tests that change it."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces tensors of the checkpoint; `__` stands for a dot, None removes."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def test_a_folder(checkpoint: Path) -> None:
    loaded = weights.load(path_model(checkpoint), 0)
    assert (loaded.source, loaded.task) == ("path", "paraphrase-classification")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.tokenize("The cats") == ["the", "cat", "##s"]
    assert not loaded.model.training
    assert checkpoint.name in loaded.reason and str(checkpoint.parent) not in loaded.reason


def test_half_precision_storage_loads_as_fp32(copy: Path) -> None:
    path = copy / "model.safetensors"
    halves = {name: tensor.half() for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(halves, path, metadata={"format": "pt"})
    edit_config(copy, dtype="float16")
    assert {weight.dtype for weight in weights.load(path_model(copy), 0).model.parameters()} == {
        torch.float32
    }


def test_modules_json_makes_a_sentence_embedding(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sentence", labels=None)
    assert weights.load(path_model(folder), 0).task == "encoder"
    (folder / "modules.json").write_text("[]")
    assert weights.load(path_model(folder), 0).task == "sentence-embedding"


def test_the_task_can_be_chosen(checkpoint: Path) -> None:
    loaded = weights.load(path_model(checkpoint, task="encoder"), 0)
    assert loaded.task == "encoder"
    assert not hasattr(loaded.model, "classifier")


def test_a_missing_pooler_is_no_missing_weight(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sentence", labels=None)
    edit_tensors(folder, pooler__dense__weight=None, pooler__dense__bias=None)
    assert weights.load(path_model(folder), 0).task == "encoder"


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_tensor(copy: Path, bad: float) -> None:
    weight = torch.zeros(64, 64)
    weight[3, 5] = bad
    edit_tensors(copy, **{QUERY.replace(".", "__"): weight})
    with pytest.raises(UserError, match=QUERY):
        weights.load(path_model(copy), 0)


def test_missing_weights_are_said(copy: Path) -> None:
    edit_tensors(copy, **{QUERY.replace(".", "__"): None})
    with pytest.raises(UserError, match=f"lacks the weights {QUERY}"):
        weights.load(path_model(copy), 0)


def test_shapes_that_do_not_fit_are_said(copy: Path) -> None:
    edit_tensors(copy, **{QUERY.replace(".", "__"): torch.zeros(32, 64)})
    with pytest.raises(UserError, match=r"model\.path=.*the shapes of .*query\.weight do not fit") as caught:
        weights.load(path_model(copy), 0)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_head_cannot_classify(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bare", labels=None)
    with pytest.raises(UserError, match="no classification head"):
        weights.load(path_model(folder, task="paraphrase-classification"), 0)


def test_a_head_of_three_labels_cannot_tell_paraphrases(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "three", labels=3)
    with pytest.raises(UserError, match="3 labels"):
        weights.load(path_model(folder), 0)


@pytest.mark.parametrize("model_type", ["roberta", "electra", "ernie", "roc_bert", "distilbert", "mpnet"])
def test_other_families_of_the_op(model_type: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(model_type, vocab_size=80, max_position_embeddings=40, **sizes)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    loaded = weights.load(path_model(tmp_path), 0)
    assert loaded.task == "paraphrase-classification"
    batch = random_batch(80, [position_limit(loaded.model)], position_limit(loaded.model), seed=0)
    with torch.inference_mode():
        logits = Head(loaded.model)(*batch.inputs)
    assert logits.shape == (1, 2)


def test_the_families_are_the_op_s() -> None:
    program = "from bert_op._families import FAMILIES; print(*(family.name for family in FAMILIES))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(FAMILIES) <= set(run.stdout.split())


@pytest.mark.parametrize("model_type", ["albert", "modernbert", "gpt2", "no-such-model", None])
def test_no_bert_is_a_user_error(copy: Path, model_type: str | None) -> None:
    edit_config(copy, model_type=model_type)
    with pytest.raises(UserError, match="cannot be measured: the model_type") as caught:
        weights.load(path_model(copy), 0)
    assert repr(model_type) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x00" * 64])
def test_a_broken_weight_file_is_a_user_error(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.path=.*cannot be loaded") as caught:
        weights.load(path_model(copy), 0)
    assert "\n" not in str(caught.value)


def test_a_broken_config_is_a_user_error(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.path="):
        weights.load(path_model(copy), 0)


def test_pickles_are_opened_only_on_request(copy: Path) -> None:
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"set model\.allow_pickle=true"):
        weights.load(path_model(copy), 0)
    loaded = weights.load(path_model(copy, allow_pickle=True), 0)
    assert torch.equal(loaded.model.state_dict()[QUERY], tensors[QUERY])


def test_random_weights_follow_the_seed() -> None:
    spec = ModelSpec("tiny", source="random", architecture=ARCHITECTURE)
    first, again, other = (weights.load(spec, seed) for seed in (1, 1, 2))
    name = "encoder.layer.0.output.dense.weight"
    states = [loaded.model.state_dict()[name] for loaded in (first, again, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert (first.source, first.task, first.tokenizer) == ("random", "encoder", None)
    assert "seed 1" in first.reason


def test_random_weights_of_a_classifier() -> None:
    architecture = ARCHITECTURE | {"architectures": ["BertForSequenceClassification"], "num_labels": 2}
    loaded = weights.load(ModelSpec("tiny", source="random", architecture=architecture), 0)
    assert loaded.task == "paraphrase-classification"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"hidden_sizes": 64}, "no setting hidden_sizes"), ({"hidden_size": 65}, "multiple of")],
)
def test_an_impossible_architecture_is_a_user_error(changes: dict[str, int], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        weights.load(ModelSpec("tiny", source="random", architecture=ARCHITECTURE | changes), 0)


def test_auto_takes_the_next_source_and_says_why() -> None:
    spec = ModelSpec("tiny", hub_id="nobody/no-such-model", package="no-such-package", package_folder="x",
                     architecture=ARCHITECTURE)  # fmt: skip
    loaded = weights.load(spec, 0, hub_problem=OFFLINE)
    assert loaded.source == "random"
    assert OFFLINE in loaded.reason
    assert "nobody/no-such-model is not in the local cache" in loaded.reason
    assert "no-such-package is not installed" in loaded.reason


def cached(cache: Path, checkpoint: Path, *names: str) -> ModelSpec:
    """A hub cache with these files of the checkpoint, and what would be loaded from it."""
    repository, commit = cache / "models--nobody--partial", "0" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in names:
        shutil.copyfile(checkpoint / name, snapshot / name)
    return ModelSpec("tiny", hub_id="nobody/partial", architecture=ARCHITECTURE)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's libraries."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_auto_goes_on_where_the_cache_has_no_weights(cache: Path, checkpoint: Path) -> None:
    loaded = weights.load(cached(cache, checkpoint, "config.json"), 0, hub_problem=OFFLINE)
    assert loaded.source == "random"
    assert "the local cache has no weights of nobody/partial" in loaded.reason


def test_weights_in_the_cache_are_taken(cache: Path, checkpoint: Path) -> None:
    spec = cached(cache, checkpoint, "config.json", "model.safetensors")
    loaded = weights.load(spec, 0, hub_problem=OFFLINE)
    assert (loaded.source, loaded.task) == ("hub", "paraphrase-classification")


def test_pickled_weights_in_the_cache_are_taken_only_on_request(cache: Path, copy: Path) -> None:
    torch.save(safetensors.torch.load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    spec = cached(cache, copy, "config.json", "pytorch_model.bin")
    assert "model.allow_pickle=true" in weights.load(spec, 0, hub_problem=OFFLINE).reason
    trusted = dataclasses.replace(spec, allow_pickle=True)
    assert weights.load(trusted, 0, hub_problem=OFFLINE).source == "hub"


def test_auto_does_not_hide_a_wrong_checkpoint(copy: Path) -> None:
    edit_config(copy, model_type="gpt2")
    with pytest.raises(UserError, match="cannot be measured"):
        weights.load(ModelSpec("x", path=str(copy), architecture=ARCHITECTURE), 0)


@pytest.mark.parametrize(
    ("spec", "setting", "problem"),
    [
        (
            ModelSpec("x", source="hub", hub_id="nobody/no-such-model"),
            "model.hub_id",
            "not in the local cache",
        ),
        (ModelSpec("x", hub_id="nobody/no-such-model"), "model.source", "not in the local cache"),
        (
            ModelSpec("x", source="package", package="no-such", package_folder="x"),
            "model.package",
            "not installed",
        ),
        (ModelSpec("x", source="path", path="no/such/folder"), "model.path", "is no folder"),
    ],
)
def test_a_source_that_is_not_there_is_a_user_error(spec: ModelSpec, setting: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        weights.load(spec, 0, hub_problem=OFFLINE)
    assert caught.value.setting == setting


def test_a_tokenizer_that_cannot_be_loaded_is_a_user_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.tokenizer="):
        weights.load(path_model(checkpoint, tokenizer=str(tmp_path)), 0)


def test_another_tokenizer_can_be_chosen(checkpoint: Path) -> None:
    spec = ModelSpec("tiny", source="random", architecture=ARCHITECTURE, tokenizer=str(checkpoint))
    assert weights.load(spec, 0).tokenizer is not None


@pytest.fixture
def package(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """An installed distribution with the checkpoint, whose code must never run."""
    site = tmp_path / "site"
    folder = Path(shutil.copytree(checkpoint, site / "tiny_bert" / "model"))
    (site / "tiny_bert" / "__init__.py").write_text("raise AssertionError('this code was run')\n")
    info = site / "tiny_bert-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.2\n")
    (info / "RECORD").write_text("tiny_bert/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return ModelSpec(
        "tiny", source="package", package="tiny-bert", package_folder="tiny_bert/model", package_files=digests
    )


def test_a_package_is_read_and_not_run(package: ModelSpec) -> None:
    loaded = weights.load(package, 0)
    assert (loaded.source, loaded.task) == ("package", "paraphrase-classification")
    assert loaded.tokenizer is not None
    assert "tiny-bert 1.2" in loaded.reason
    assert torch.isfinite(loaded.model(torch.tensor([[2, 5, 3]])).logits).all()


def test_a_changed_file_of_a_package_is_refused(package: ModelSpec) -> None:
    changed = package.package_files | {"config.json": "0" * 64}
    with pytest.raises(UserError, match=r"config\.json has the SHA-256"):
        weights.load(dataclasses.replace(package, package_files=changed), 0)


def test_a_file_of_a_package_that_is_missing_is_a_user_error(package: ModelSpec) -> None:
    files = package.package_files | {"gone.json": "0" * 64}
    with pytest.raises(UserError, match=r"has no file gone\.json"):
        weights.load(dataclasses.replace(package, package_files=files), 0)


def test_files_of_a_package_that_are_not_listed_are_not_read(package: ModelSpec) -> None:
    listed = {name: digest for name, digest in package.package_files.items() if name != "vocab.txt"}
    assert weights.load(dataclasses.replace(package, package_files=listed), 0).tokenizer is None


def test_the_shared_checkpoint() -> None:
    loaded = weights.load(path_model(shared("models", "minilm-l6-mrpc")), 0)
    assert loaded.task == "paraphrase-classification"
    config = json.loads(shared("models", "minilm-l6-mrpc", "config.json").read_text())
    assert loaded.model.config.hidden_size == config["hidden_size"]
