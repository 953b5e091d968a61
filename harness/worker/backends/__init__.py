"""What runs the model: each backend is a module with `prepare(work) -> Runner` and the PACKAGES it is of.

One of ours is a file here, a line below, a line in harness.values.spec.BACKENDS and a file in conf/backend;
another package's is an entry point, see harness/values/plugins.py and docs/harness.md.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from harness.values import plugins
from harness.values.errors import UserError
from harness.values.spec import TOKEN_TYPE_BACKENDS, RunSpec
from harness.worker.backends import hf, ipex, onnxruntime, op, openvino
from harness.worker.backends.common import Goal, Head, Runner, Work, reference_of, takes_token_types
from harness.worker.backends.op import import_op
from harness.worker.tokens import Batch

__all__ = [
    "Goal",
    "Head",
    "Runner",
    "check_op_runs",
    "import_op",
    "needs_calibration",
    "prepare",
    "reference_of",
    "versions",
]

BACKENDS = {"hf": hf, "ipex": ipex, "onnxruntime": onnxruntime, "op": op, "openvino": openvino}
# Those that quantize activations with factors found beforehand; the others do it call by call.
CALIBRATED = ("ipex", "openvino")


def prepare(
    model: transformers.PreTrainedModel,
    spec: RunSpec,
    example: Batch,
    calibration: Sequence[Batch] = (),
    goal: Goal | None = None,
) -> Runner:
    """Converts `model` for the backend of `spec`, in place or into a form of its own.

    Args:
        model: in fp32 and eval mode.
        spec: already checked.
        example: a batch of the shape that will be timed.
        calibration: batches for static quantization; the example where there are none.
        goal: of spec.target.
    Raises:
        UserError: the backend's library is not there or cannot be loaded, or it does not take such models.
        RuntimeError: the backend would not do what it was asked for.
    """
    name = spec.backend.name
    if name not in TOKEN_TYPE_BACKENDS and not takes_token_types(model):
        raise UserError(
            "backend", name, f"measures no model without token types, such as {model.config.model_type}",
            f"Use backend={' or backend='.join(TOKEN_TYPE_BACKENDS)}",
        )  # fmt: skip
    work = Work(
        model=model,
        precision=spec.precision,
        graph=spec.backend.graph,
        skip_padding=spec.backend.skip_padding,
        example=example,
        calibration=tuple(calibration) or (example,),
        threads=torch.get_num_threads(),
        goal=goal,
    )
    runner: Runner = _backend(name).prepare(work)
    return runner


def _backend(name: str) -> Any:
    """The module that is, or the object that another package offers as, backend `name`."""
    if name in BACKENDS:
        return BACKENDS[name]
    point = plugins.backends().get(name)
    if point is None:
        raise UserError("backend", name, "is of no package that is installed", f"Use {', '.join(BACKENDS)}")
    package = point.dist.name if point.dist is not None else point.module
    try:
        backend = point.load()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise UserError(
            "backend", name, f"{point.value} of the package {package} cannot be loaded ({reason})",
            "Correct or uninstall the package",
        ) from error  # fmt: skip
    if not callable(getattr(backend, "prepare", None)):
        raise UserError(
            "backend", name, f"{point.value} of the package {package} has no prepare(work)",
            "See docs/harness.md, A backend of your own",
        )  # fmt: skip
    return backend


def needs_calibration(spec: RunSpec) -> bool:
    """Whether `prepare` will want to see real inputs."""
    return spec.backend.name in CALIBRATED and spec.precision.endswith("qint8")


def check_op_runs(runner: Runner, spec: RunSpec, example: Batch) -> dict[str, Any]:
    """Makes sure, after the first forward, that backend op ran the op; returns its explain(), {} for others.

    RuntimeError where it did not.
    """
    return op.check_op_runs(runner, example) if spec.backend.name == "op" else {}


def versions(name: str) -> dict[str, str]:
    """The installed versions of what backend `name` is made of; a package that is missing is left out."""
    found = {}
    for package in getattr(_backend(name), "PACKAGES", ()):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
