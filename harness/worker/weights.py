"""The model to measure as Hugging Face loads it, in fp32, and where its weights came from."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import cached_file

from harness.values.errors import UserError
from harness.values.spec import FAMILIES, TOKENIZER_FILES, ModelSpec, task_of
from harness.worker import package

# Parameters of task heads: a checkpoint may lack the pooler, whose output the other tasks do not read.
OPTIONAL_HEADS = ("pooler.",)
CLASSIFIER = "classifier."
# The files that weights are in: whole, or the list of their parts.
READABLE = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# transformers 4, which IPEX needs, knows the argument by its old name only.
DTYPE = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


@dataclass(frozen=True)
class Loaded:
    """A model in fp32 and eval mode, its tokenizer (None where nothing brings one), and its origin.

    source: hub, path, package or random. reason: why that one, in one sentence.
    """

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase | None
    task: str
    source: str
    reason: str


class Unavailable(Exception):
    """A source that cannot give weights here and now; with source `auto` the next one is tried."""


def load(spec: ModelSpec, seed: int, *, hub_problem: str | None = None) -> Loaded:
    """Loads the model that `spec` describes.

    Args:
        spec: already checked by harness.ask.check. Source `auto` tries those of hub, path, package and random
            that have a value, in this order.
        seed: of the random weights.
        hub_problem: why the hub cannot be reached (its local cache is then all there is), or None.

    Raises UserError for a source that is not there, a checkpoint of another family, that lacks weights or
    that has NaN or infinity in them, and for a package whose files are not those that were pinned.
    """
    given = {"hub": spec.hub_id, "path": spec.path, "package": spec.package, "random": spec.architecture}
    order = [source for source, value in given.items() if value] if spec.source == "auto" else [spec.source]
    refused: list[str] = []
    for source in order:
        try:
            loaded = _load_from(source, spec, seed, hub_problem)
        except Unavailable as problem:
            refused.append(f"{source}: {problem}")
            continue
        _check_finite(loaded.model, _setting(source))
        return loaded if not refused else _with_reason(loaded, refused)
    setting = _setting(spec.source)
    raise UserError(
        setting, getattr(spec, setting.removeprefix("model."), spec.source), "; ".join(refused),
        "Connect to the hub, or set model.path=<folder made by save_pretrained> or model.source=random",
    )  # fmt: skip


def _with_reason(loaded: Loaded, refused: list[str]) -> Loaded:
    reason = f"{loaded.reason}, because " + "; ".join(refused)
    return Loaded(loaded.model, loaded.tokenizer, loaded.task, loaded.source, reason)


def _setting(source: str) -> str:
    settings = {"hub": "model.hub_id", "path": "model.path", "package": "model.package"}
    return settings.get(source, "model.source")


def _load_from(source: str, spec: ModelSpec, seed: int, hub_problem: str | None) -> Loaded:
    if source == "hub":
        return _from_hub(spec, hub_problem)
    if source == "path":
        return _from_path(spec)
    if source == "package":
        return _from_package(spec)
    return _from_random(spec, seed)


def _from_hub(spec: ModelSpec, hub_problem: str | None) -> Loaded:
    if spec.hub_id is None:
        raise Unavailable("model.hub_id is not set")
    offline = hub_problem is not None
    options = {"revision": spec.hub_revision, "local_files_only": offline}
    if offline and cached_file(spec.hub_id, "config.json", **options, **_QUIET) is None:
        raise Unavailable(f"{hub_problem} and {spec.hub_id} is not in the local cache")
    if offline and not _any_cached(spec.hub_id, READABLE + (PICKLED if spec.allow_pickle else ()), options):
        pickled = not spec.allow_pickle and _any_cached(spec.hub_id, PICKLED, options)
        only = " but pickled ones, for model.allow_pickle=true" if pickled else ""
        raise Unavailable(f"{hub_problem} and the local cache has no weights of {spec.hub_id}{only}")
    with _user_error("model.hub_id", spec.hub_id):
        has_modules = cached_file(spec.hub_id, "modules.json", **options, **_QUIET) is not None
        config, task = _read_config(spec, "model.hub_id", spec.hub_id, has_modules, options)
        model = _read_model(spec, "model.hub_id", spec.hub_id, config, task, options)
        # The revision belongs to the model's repository, which need not be the tokenizer's.
        own = spec.hub_tokenizer is None
        tokenizer = _read_tokenizer(
            spec, spec.hub_tokenizer or spec.hub_id, options if own else {"local_files_only": offline}
        )
    where = f"the local cache of the hub ({hub_problem})" if offline else "the hub"
    return Loaded(model, tokenizer, task, "hub", f"{spec.hub_id} from {where}")


def _any_cached(hub_id: str, names: tuple[str, ...], options: dict[str, Any]) -> bool:
    """Whether the local cache has one of the files: a download may have been stopped before the weights."""
    return any(cached_file(hub_id, name, **options, **_QUIET) is not None for name in names)


def _from_path(spec: ModelSpec) -> Loaded:
    if spec.path is None or not Path(spec.path).is_dir():
        raise UserError("model.path", spec.path, "is no folder", "Name a folder made by save_pretrained")
    folder = Path(spec.path)
    with _user_error("model.path", spec.path):
        model, tokenizer, task = _read_folder(spec, "model.path", spec.path, folder)
    return Loaded(model, tokenizer, task, "path", f"model.path names the folder {folder.name}")


def _from_package(spec: ModelSpec) -> Loaded:
    if spec.package is None or spec.package_folder is None:
        raise Unavailable("model.package is not set")
    try:
        distribution = importlib.metadata.distribution(spec.package)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"the package {spec.package} is not installed") from None
    with (
        package.checked_files(distribution, spec.package_folder, spec.package_files) as folder,
        _user_error("model.package", spec.package),
    ):
        model, tokenizer, task = _read_folder(spec, "model.package", spec.package, folder)
    reason = f"{spec.package} {distribution.version}, installed, files checked by SHA-256"
    return Loaded(model, tokenizer, task, "package", reason)


def _from_random(spec: ModelSpec, seed: int) -> Loaded:
    if not spec.architecture:
        raise Unavailable("model.architecture is not set")
    architectures = spec.architecture.get("architectures") or []
    task = task_of(architectures, False) if spec.task == "auto" else spec.task
    with _user_error("model.architecture", spec.architecture):
        unknown = sorted(set(spec.architecture) - {*transformers.BertConfig().to_dict(), "num_labels"})
        if unknown:
            raise UserError(
                "model.architecture", spec.architecture, f"BERT has no setting {', '.join(unknown)}",
                "Use the names of transformers.BertConfig, e.g. hidden_size, num_hidden_layers",
            )  # fmt: skip
        config = transformers.BertConfig(**spec.architecture)
        # The global generator is what the initialisation of transformers draws from.
        torch.manual_seed(seed)
        model = _model_class(task).from_config(config)
        tokenizer = _read_tokenizer(spec, None, {})
    return Loaded(model.float().eval(), tokenizer, task, "random", f"random weights with seed {seed}")


def _read_folder(
    spec: ModelSpec, setting: str, value: str, folder: Path
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase | None, str]:
    options = {"local_files_only": True}
    has_modules = (folder / "modules.json").is_file()
    config, task = _read_config(spec, setting, str(folder), has_modules, options)
    model = _read_model(spec, setting, str(folder), config, task, options)
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return model, _read_tokenizer(spec, str(folder) if has_tokenizer else None, options), task


def _read_config(
    spec: ModelSpec, setting: str, name: str, has_modules: bool, options: dict[str, Any]
) -> tuple[transformers.PretrainedConfig, str]:
    plain, _ = transformers.PretrainedConfig.get_config_dict(name, **options)
    model_type = plain.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(
            setting, getattr(spec, setting.removeprefix("model.")),
            f"is no BERT and cannot be measured: the model_type of its config.json is {model_type!r}",
            f"Name a checkpoint whose model_type is one of {', '.join(FAMILIES)}",
        )  # fmt: skip
    config = transformers.CONFIG_MAPPING[model_type].from_dict(plain)
    task = task_of(plain.get("architectures") or [], has_modules) if spec.task == "auto" else spec.task
    return config, task


def _read_model(
    spec: ModelSpec,
    setting: str,
    name: str,
    config: transformers.PretrainedConfig,
    task: str,
    options: dict[str, Any],
) -> transformers.PreTrainedModel:
    value = getattr(spec, setting.removeprefix("model."))
    model, info = _model_class(task).from_pretrained(
        name,
        config=config,
        **{DTYPE: torch.float32},
        trust_remote_code=False,
        use_safetensors=None if spec.allow_pickle else True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the information and refused below, by name
        **options,
    )
    mismatched = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"]]
    if mismatched:
        raise UserError(
            setting,
            value,
            f"the shapes of {_few(mismatched)} do not fit its config.json",
            "Repair the checkpoint",
        )
    missing = [
        key
        for key in sorted(info["missing_keys"])
        if not key.removeprefix(f"{model.base_model_prefix}.").startswith(OPTIONAL_HEADS)
    ]
    if task == "paraphrase-classification" and any(key.startswith(CLASSIFIER) for key in missing):
        raise UserError(
            setting, value, "has no classification head, which task paraphrase-classification needs",
            "Name a checkpoint that was fine-tuned for it, or set model.task=encoder",
        )  # fmt: skip
    if missing:
        raise UserError(setting, value, f"lacks the weights {_few(missing)}", "Name a complete checkpoint")
    if task == "paraphrase-classification" and config.num_labels != 2:
        raise UserError(
            setting, value, f"has {config.num_labels} labels where paraphrase-classification has 2",
            "Name a checkpoint with two labels, or set model.task=encoder",
        )  # fmt: skip
    return model.eval()


def _read_tokenizer(
    spec: ModelSpec, beside: str | None, options: dict[str, Any]
) -> transformers.PreTrainedTokenizerBase | None:
    name = spec.tokenizer or beside
    if name is None:
        return None
    if spec.tokenizer is not None:
        options = {"local_files_only": os.path.isdir(spec.tokenizer)}
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        if spec.tokenizer is None:
            return None  # whoever needs a tokenizer says that there is none
        raise UserError(
            "model.tokenizer", spec.tokenizer, f"cannot be loaded ({_one_line(error)})",
            "Name a hub id or a folder with a tokenizer.json",
        ) from error  # fmt: skip


def _model_class(task: str) -> Any:
    if task == "paraphrase-classification":
        return transformers.AutoModelForSequenceClassification
    return transformers.AutoModel


def _check_finite(model: transformers.PreTrainedModel, setting: str) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                setting,
                name,
                "this tensor of the checkpoint holds NaN or infinity",
                "Repair or replace the checkpoint",
            )


# cached_file answers None instead of raising for what is not there or cannot be reached.
_QUIET: dict[str, Any] = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


@contextmanager
def _user_error(setting: str, value: object) -> Iterator[None]:
    """Turns what loading raises for a wrong checkpoint into an error that names the setting."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # safetensors, json, transformers and the hub raise a dozen unrelated classes here.
        text = _one_line(error)
        remedy = "Check that the name is right and the checkpoint complete"
        if ("safetensors" in text and ".bin" in text) or "no file named model.safetensors" in text:
            remedy = "Take a checkpoint in safetensors, or, if you trust it, set model.allow_pickle=true"
        raise UserError(setting, value, f"cannot be loaded ({text})", remedy) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + " ..."


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
