"""The model as it is measured: converted to a precision, captured as a graph, called with a batch.

A backend is a function that converts the loaded model in place; a graph is one that captures the result.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from harness.errors import UserError
from harness.spec import RunSpec
from harness.worker.tokens import Batch

OP_ENVIRONMENT = ("BERT_OP_PT_LIB", "BERT_OP_MAX_ISA")


class Head(torch.nn.Module):
    """A Hugging Face model with one tensor as its result: logits (batch, labels) where it has a head, else
    the last hidden state (batch, seq_len, hidden_size).
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        result: torch.Tensor = output.logits if "logits" in output else output.last_hidden_state
        return result


@dataclass(frozen=True)
class Runner:
    """What is measured: `call` takes Batch.inputs and returns what Head does; `model` is converted."""

    call: Callable[..., torch.Tensor]
    model: transformers.PreTrainedModel


def reference_of(model: transformers.PreTrainedModel) -> Head:
    """The model as Hugging Face runs it, to compare with; it shares the storage of the weights but is not
    touched by a conversion of `model` in place. To be taken before any backend is imported.
    """
    shared = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    return Head(copy.deepcopy(model, shared)).eval()


def prepare(model: transformers.PreTrainedModel, spec: RunSpec, example: Batch) -> Runner:
    """Converts `model` in place and captures it. `example`: a batch of the shape that will be timed.

    Raises UserError where the backend cannot run the precision or its library cannot be loaded, and
    RuntimeError where the op would not run the model, because a measurement of the op has to be one.
    """
    CONVERTERS[spec.backend.name](model, spec)
    call = GRAPHS[spec.backend.graph](Head(model).eval(), example)
    return Runner(call, model)


def check_op_runs(runner: Runner, spec: RunSpec, example: Batch) -> dict[str, Any]:
    """Makes sure, after the first forward, that backend op ran the op; returns its explain().

    RuntimeError where it did not: the time of the original path must not be recorded as that of the op.
    """
    if spec.backend.name != "op":
        return {}
    import bert_op

    explained: dict[str, Any] = bert_op.explain(runner.model)
    text = graph_text(runner.call)
    ran = "bert_op" in text if text is not None else _dispatches_op(runner, example)
    if explained["fallbacks"] or not ran:
        reasons = "; ".join(str(fallback["reason"]) for fallback in explained["fallbacks"])
        raise RuntimeError(
            "the op did not run the model: Hugging Face's path did, and its time is not that of the op. "
            f"bert_op.explain says: {reasons or 'nothing'}"
        )
    return explained


def graph_text(call: Callable[..., torch.Tensor]) -> str | None:
    """The operators of a captured graph as text, None for one that is not captured ahead of time."""
    if isinstance(call, torch.jit.ScriptModule):
        return str(call.inlined_graph)
    if isinstance(call, torch.fx.GraphModule):
        return str(call.graph)
    return None


def _dispatches_op(runner: Runner, example: Batch) -> bool:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        seen = False

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


def _convert_hf(model: transformers.PreTrainedModel, spec: RunSpec) -> None:
    if spec.precision == "bf16":
        model.to(torch.bfloat16)
    elif spec.precision != "fp32":
        raise UserError(
            "precision", spec.precision, "Hugging Face models have no int8 of this kind",
            "Use backend=op, or precision=fp32 or bf16",
        )  # fmt: skip


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


def _convert_op(model: transformers.PreTrainedModel, spec: RunSpec) -> None:
    import_op()
    import bert_op

    try:
        bert_op.optimize(model, precision=spec.precision, skip_padding=spec.backend.skip_padding)
    except (ImportError, OSError) as error:
        raise _library_error(error) from error


def _library_error(error: Exception) -> UserError:
    """bert_op's own words, which end with the remedy, under the setting that they are about."""
    reason = " ".join(str(error).split()).rstrip(".")
    for name in OP_ENVIRONMENT:
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


def _eager(head: torch.nn.Module, example: Batch) -> Callable[..., torch.Tensor]:
    return head


def _jit(head: torch.nn.Module, example: Batch) -> Callable[..., torch.Tensor]:
    with warnings.catch_warnings(), torch.inference_mode():
        # The constants that the tracer warns of are those of checks that hold for every shape.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # The tracer reads every attribute of the model, deprecated ones too, and is itself deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.freeze(torch.jit.trace(head, example.inputs, check_trace=False))


def _compile(head: torch.nn.Module, example: Batch) -> Callable[..., torch.Tensor]:
    return torch.compile(head)


def _export(head: torch.nn.Module, example: Batch) -> Callable[..., torch.Tensor]:
    # torch.export takes sizes 0 and 1 for constants, so the example is at least 2 by 2.
    rows, columns = (max(1, 2 // size) for size in example.input_ids.shape)
    inputs = tuple(tensor.repeat(rows, columns) for tensor in example.inputs)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        exported = torch.export.export(head, inputs, dynamic_shapes=(dynamic, dynamic, dynamic))
    return exported.module()


CONVERTERS: dict[str, Callable[[transformers.PreTrainedModel, RunSpec], None]] = {
    "hf": _convert_hf,
    "op": _convert_op,
}
GRAPHS: dict[str, Callable[[torch.nn.Module, Batch], Callable[..., torch.Tensor]]] = {
    "eager": _eager,
    "jit": _jit,
    "compile": _compile,
    "export": _export,
}
