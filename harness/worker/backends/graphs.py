"""Capturing a torch module as a graph. Each function takes the module and a batch of the timed shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from harness.worker.tokens import Batch

Call = Callable[..., torch.Tensor]


def capture(head: torch.nn.Module, graph: str, example: Batch) -> Call:
    """`head` as `graph`, one of harness.values.spec.GRAPHS."""
    return _GRAPHS[graph](head, example)


def graph_text(call: Call) -> str | None:
    """The operators of a captured graph as text, None for one that is not captured ahead of time."""
    if isinstance(call, torch.jit.ScriptModule):
        return str(call.inlined_graph)
    if isinstance(call, torch.fx.GraphModule):
        return str(call.graph)
    return None


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Without the warnings that tracing a BERT gives, none of which is about a wrong result."""
    with warnings.catch_warnings():
        # The constants that the tracer warns of are those of checks that hold for every shape.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # The tracer reads every attribute of the model, deprecated ones too, and is itself deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _eager(head: torch.nn.Module, example: Batch) -> Call:
    return head


def _jit(head: torch.nn.Module, example: Batch) -> Call:
    with quiet_tracing(), torch.inference_mode():
        return torch.jit.freeze(torch.jit.trace(head, example.inputs, check_trace=False))


def _compile(head: torch.nn.Module, example: Batch) -> Call:
    return torch.compile(head)


def _max_autotune(head: torch.nn.Module, example: Batch) -> Call:
    """torch.compile that tries its kernels and folds the weights into them; the first call takes minutes."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(head, mode="max-autotune")


def _export(head: torch.nn.Module, example: Batch) -> Call:
    # torch.export takes sizes 0 and 1 for constants, so the example is at least 2 by 2.
    rows, columns = (max(1, 2 // size) for size in example.input_ids.shape)
    inputs = tuple(tensor.repeat(rows, columns) for tensor in example.inputs)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        exported = torch.export.export(head, inputs, dynamic_shapes=(dynamic, dynamic, dynamic))
    return exported.module()


_GRAPHS: dict[str, Callable[[torch.nn.Module, Batch], Call]] = {
    "eager": _eager,
    "jit": _jit,
    "compile": _compile,
    "max-autotune": _max_autotune,
    "export": _export,
}
