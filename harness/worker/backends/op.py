"""The fused encoder of bert_op, and the proof that it ran."""

from __future__ import annotations

import os
from typing import Any

import torch

from harness.values.errors import UserError
from harness.worker.backends.common import Head, Runner, Work
from harness.worker.backends.graphs import capture, graph_text
from harness.worker.tokens import Batch

PACKAGES = ("torch", "transformers")
ENVIRONMENT = ("BERT_OP_PT_LIB", "BERT_OP_MAX_ISA")


def import_op() -> None:
    """Imports bert_op, which loads its library. UserError where it is not installed or cannot be loaded."""
    try:
        import bert_op  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "bert_op":
            raise
        raise UserError(
            "backend", "op", "the package bert_op is not installed", "Run make run, which builds it"
        ) from None
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise _library_error(error) from error


def prepare(work: Work) -> Runner:
    """Converts the model in place and captures it. UserError where the op's library cannot be loaded."""
    import_op()
    import bert_op

    goal, options = work.goal, {}
    if goal is not None:
        options = {"texts": goal.texts, "tokenizer": goal.tokenizer, "target": goal.bounds}
    try:
        bert_op.optimize(work.model, precision=work.precision, skip_padding=work.skip_padding, **options)
    except (ImportError, OSError) as error:
        raise _library_error(error) from error
    except ValueError as error:
        if goal is None:
            raise
        raise UserError(
            "precision.target", ", ".join(f"{name} {bound:g}" for name, bound in goal.bounds.items()),
            " ".join(str(error).split()).rstrip("."), "Ask for less, or use precision=bf16 or fp32",
        ) from error  # fmt: skip
    call = capture(Head(work.model).eval(), work.graph, work.example)
    return Runner(call, work.model, {"threads": torch.get_num_threads()})


def check_op_runs(runner: Runner, example: Batch) -> dict[str, Any]:
    """Makes sure, after the first forward, that the op ran; returns its explain().

    Where it did not, the time of the original path must not be recorded as that of the op: UserError where
    the op says why this model is not for it, RuntimeError where it knows nothing of it.
    """
    import bert_op

    explained: dict[str, Any] = bert_op.explain(runner.model)
    text = graph_text(runner.call)
    ran = "bert_op" in text if text is not None else _dispatches_op(runner, example)
    if explained["fallbacks"]:
        reasons = "; ".join(str(fallback["reason"]).rstrip(".") for fallback in explained["fallbacks"])
        raise UserError(
            "backend", "op", f"the op does not run this model, Hugging Face's path would ({reasons})",
            "Use backend=hf, or another model",
        )  # fmt: skip
    if not ran:
        raise RuntimeError(
            "the op did not run the model: Hugging Face's path did, and its time is not that of the op. "
            "bert_op.explain says nothing of it"
        )
    return explained


def _dispatches_op(runner: Runner, example: Batch) -> bool:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        seen = False
        bert_op_sees_operator = True  # to other modes, bert_op shows Hugging Face's operations

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            self.seen = self.seen or func.namespace == "bert_op"
            return func(*args, **(kwargs or {}))

    watch = Watch()
    with torch.inference_mode(), watch:
        # Not `call`: under a dispatch mode torch.compile would leave its graph and compile again.
        Head(runner.model).eval()(*example.inputs)
    return watch.seen


def _library_error(error: Exception) -> UserError:
    """bert_op's own words, which end with the remedy, under the setting that they are about."""
    reason = " ".join(str(error).split()).rstrip(".")
    for name in ENVIRONMENT:
        value = os.environ.get(name)
        if value is not None and name in reason:
            for shown in (value, repr(value)):
                reason = reason.removeprefix(f"{name}={shown} ")
            problem, _, remedy = reason.rpartition(". ")
            return UserError(
                name, value, problem or reason, remedy if problem else f"Correct or unset {name}"
            )
    return UserError(
        "backend", "op", f"bert_op cannot be used: {reason}", "Build it again, or use backend=hf"
    )
