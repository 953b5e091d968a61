"""What every backend takes and gives."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from harness.values.errors import UserError
from harness.worker.tokens import Batch

# In the order of Batch.inputs and of Head.forward.
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


class Head(torch.nn.Module):
    """A Hugging Face model with one tensor as its result: logits (batch, labels) where it has a head, else
    the last hidden state (batch, seq_len, hidden_size).

    Its inputs are the same three for every family; one that knows no token types gets none.
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.token_types = takes_token_types(model)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        types = {"token_type_ids": token_type_ids} if self.token_types else {}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        result: torch.Tensor = output.logits if "logits" in output else output.last_hidden_state
        return result


def takes_token_types(model: transformers.PreTrainedModel) -> bool:
    """Whether the model is called with token_type_ids: DistilBERT and MPNet are not."""
    return "token_type_ids" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class Runner:
    """What is measured.

    call: takes Batch.inputs and returns what Head does, in any float dtype, as a tensor of its own.
    model: the model that was converted in place; None where the backend runs a conversion of it and the
        model itself is not what is measured.
    facts: what the backend says of itself: `threads`, its settings, what it fused. For the report.
    """

    call: Callable[..., torch.Tensor]
    model: transformers.PreTrainedModel | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """bounds: see RunSpec.target. texts: single ones or pairs, on which they have to hold."""

    bounds: dict[str, float]
    texts: Sequence[Any]
    tokenizer: transformers.PreTrainedTokenizerBase


@dataclass(frozen=True)
class Work:
    """What a backend is to prepare.

    model: Hugging Face's, in fp32 and eval mode; may be converted in place.
    example: a batch of the shape that will be timed. calibration: batches for static quantization, at least
        one where the precision has int8.
    threads: how many the backend has to compute with.
    goal: what an int8 precision has to come to, None for nothing.
    """

    model: transformers.PreTrainedModel
    precision: str
    graph: str
    skip_padding: bool
    example: Batch
    calibration: Sequence[Batch]
    threads: int
    goal: Goal | None = None


def reference_of(model: transformers.PreTrainedModel) -> Head:
    """The model as Hugging Face runs it, to compare with; it shares the storage of the weights but is not
    touched by a conversion of `model` in place. To be taken before any backend is imported.
    """
    shared = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    return Head(copy.deepcopy(model, shared)).eval()


def need(backend: str, package: str) -> Any:
    """The module `package`. UserError where this interpreter cannot import it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            "backend", backend, f"the Python that measures it has no package {error.name}",
            f"Use make peers PEERS={backend}, or correct backend.python",
        ) from None  # fmt: skip
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            "backend", backend, f"the package {package} cannot be used ({reason})",
            f"Use make peers PEERS={backend}, or correct backend.python",
        ) from error  # fmt: skip


def check_threads(backend: str, threads: int, observed: int) -> None:
    """RuntimeError where the backend's runtime did not take the number of threads it was given."""
    if observed != threads:
        raise RuntimeError(f"{backend} computes with {observed} threads instead of {threads}")


def release(model: transformers.PreTrainedModel) -> None:
    """Lets go of the weights of a model that nobody will call again: a backend has its own copy of them."""
    model.to("meta")
