"""A checkpoint and labelled pairs, judged by their files before a worker is started, which would load torch
first and then say the same. What only loading can tell is left to it.
"""

from __future__ import annotations

import importlib.metadata
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ask import workloads
from harness.values import corpus, sentence_pairs
from harness.values.errors import UserError
from harness.values.plain import read_json
from harness.values.scorable import refuse_unscorable
from harness.values.spec import (
    FAMILIES,
    SCORED_TASKS,
    TOKEN_TYPE_BACKENDS,
    TOKENIZER_FILES,
    WITHOUT_TOKEN_TYPES,
    RunSpec,
    task_of,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# No header of a checkpoint comes near it: what says so is no safetensors file.
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A folder of save_pretrained. setting, value: what the user would change."""

    setting: str
    value: str
    folder: Path
    config: dict[str, Any]

    def wrong(self, problem: str, remedy: str) -> UserError:
        """An error that names the setting."""
        return UserError(self.setting, self.value, problem, remedy)


def judge(spec: RunSpec) -> None:
    """Raises UserError for what cannot be measured as asked, as far as files of this machine tell.

    spec: checked.
    """
    checkpoint = _checkpoint(spec)
    task = None if checkpoint is None else _task(spec, checkpoint)
    if checkpoint is not None and task is not None:
        _check_family(spec, checkpoint)
        _check_weights(spec, checkpoint, task)
    workloads.check_task(spec, task)
    refuse_unscorable(spec, spec.model.source, task, "its weights are random")
    random_ids = spec.data.path is None and spec.data.hub_id is None and spec.data.shipped is None
    scored = spec.measure.accuracy and spec.model.source != "random" and task in (None, *SCORED_TASKS)
    timed = spec.measure.throughput and spec.batch.tokens == "text"
    if spec.workload.corpus is not None:
        corpus.of_file(spec.workload)
    elif random_ids or not (scored or timed):
        return
    else:
        sentence_pairs.of_file(spec.data)
    if checkpoint is not None and spec.model.tokenizer is None and not _has_tokenizer(checkpoint):
        raise UserError(
            *(("batch.tokens", "text") if timed and not scored else ("data", spec.data.name)),
            f"is text, and the checkpoint {checkpoint.value} has no tokenizer",
            "Set model.tokenizer=<hub id or folder>, or use data=synthetic and batch.tokens=random",
        )


def _checkpoint(spec: RunSpec) -> Checkpoint | None:
    """The checkpoint that will be loaded, if that is sure and it is on this machine."""
    model = spec.model
    if model.source == "path" and model.path is not None:
        setting, value, folder = "model.path", model.path, Path(model.path)
    elif model.source == "package" and model.package is not None and spec.backend.python is None:
        try:
            files = importlib.metadata.distribution(model.package)
        except importlib.metadata.PackageNotFoundError:
            return None  # a peer's environment may have it
        setting, value = "model.package", model.package
        folder = Path(str(files.locate_file(model.package_folder or "")))
    else:
        return None
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None  # check() has judged that of a path, and SHA-256 will that of a package
    return Checkpoint(setting, value, folder, config) if isinstance(config, dict) else None


def _task(spec: RunSpec, checkpoint: Checkpoint) -> str:
    architectures = checkpoint.config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    has_modules = (checkpoint.folder / "modules.json").is_file()
    return task_of(names, has_modules) if spec.model.task == "auto" else spec.model.task


def _check_family(spec: RunSpec, checkpoint: Checkpoint) -> None:
    model_type = checkpoint.config.get("model_type")
    if model_type not in FAMILIES:
        raise checkpoint.wrong(
            f"is no BERT and cannot be measured: the model_type of its config.json is {model_type!r}",
            f"Name a checkpoint whose model_type is one of {', '.join(FAMILIES)}",
        )
    if model_type in WITHOUT_TOKEN_TYPES and spec.backend.name not in TOKEN_TYPE_BACKENDS:
        raise UserError(
            "backend", spec.backend.name, f"measures no model without token types, such as {model_type}",
            f"Use backend={' or backend='.join(TOKEN_TYPE_BACKENDS)}",
        )  # fmt: skip


def _check_weights(spec: RunSpec, checkpoint: Checkpoint, task: str) -> None:
    """By the names in the weights' header, and the number of labels in config.json."""
    names = _weight_names(checkpoint, spec.model.allow_pickle)
    if task != "paraphrase-classification":
        return
    if names is not None and not any(name.startswith("classifier.") for name in names):
        raise checkpoint.wrong(
            "has no classification head, which task paraphrase-classification needs",
            "Name a checkpoint that was fine-tuned for it, or set model.task=encoder",
        )
    labels = _labels(checkpoint.config)
    if labels != 2:
        raise checkpoint.wrong(
            f"has {labels} labels where paraphrase-classification has 2",
            "Name a checkpoint with two labels, or set model.task=encoder",
        )


def _labels(config: dict[str, Any]) -> object:
    """As transformers counts them: 2 where nothing says otherwise."""
    if config.get("num_labels") is not None:
        return config["num_labels"]
    named = config.get("id2label")
    return len(named) if isinstance(named, dict) else 2


def _weight_names(checkpoint: Checkpoint, allow_pickle: bool) -> list[str] | None:
    """Names of the weights, or None where only loading tells. UserError where there is nothing to load."""
    whole, index = checkpoint.folder / WEIGHTS, checkpoint.folder / INDEX
    if whole.is_file():
        return _header(checkpoint, whole)
    if index.is_file():
        try:
            found = read_json(index)["weight_map"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return list(found) if isinstance(found, dict) else None
    pickled = any((checkpoint.folder / name).is_file() for name in PICKLED)
    if pickled and allow_pickle:
        return None
    raise checkpoint.wrong(
        f"has no {WEIGHTS}" + (", but pickled weights" if pickled else ""),
        "Take a checkpoint in safetensors, or, if you trust it, set model.allow_pickle=true"
        if pickled
        else "Name a complete checkpoint, as save_pretrained makes it",
    )


def _header(checkpoint: Checkpoint, file: Path) -> list[str]:
    """Names in the header of a safetensors file, of which the end of the last tensor has to be there too."""
    try:
        with file.open("rb") as opened:
            length = struct.unpack("<Q", opened.read(8))[0]
            if length > LONGEST_HEADER:
                raise ValueError("it has no header")
            entries = json.loads(opened.read(length))
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        if file.stat().st_size < 8 + length + max(ends, default=0):
            raise ValueError("its end is missing")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as problem:
        reason = " ".join(str(problem).split())
        raise checkpoint.wrong(
            f"its {WEIGHTS} is no whole safetensors file ({reason})", "Copy or download it again"
        ) from problem
    return [str(name) for name in entries if name != "__metadata__"]


def _has_tokenizer(checkpoint: Checkpoint) -> bool:
    return any((checkpoint.folder / name).is_file() for name in TOKENIZER_FILES)
