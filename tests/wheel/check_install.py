"""What an installed `bert_op` does with the installed transformers: `python check_install.py [family ...]`.

Needs nothing but the two and torch. Converts a small random model of every family, compares it with Hugging
Face's own, and prints one line a check. Exits with 1 if one of them fails.
"""

from __future__ import annotations

import copy
import inspect
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bert_op
import torch
import transformers
from bert_op._families import FAMILIES, Family, encoders_of
from random_models import LENGTH, SIZES, batch, new_model
from torch import Tensor, nn

# Recorded as graphs, too: one of each way in which an encoder is called.
RECORDED = ("bert", "layoutlm", "distilbert", "mpnet")


class Skipped(Exception):
    """A check that does not apply here; the message says why."""


def encoder_of(model: nn.Module) -> Any:
    (encoder,) = encoders_of(model).values()
    return encoder


def hugging_face(model: Any) -> Any:
    """The same model with Hugging Face's own encoder."""
    reference = bert_op.restore(copy.deepcopy(model))
    encoder = encoder_of(reference)
    expect(type(encoder).__module__.startswith("transformers."), f"restore left {type(encoder)}")
    return reference


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def equal(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def ran_by_operator(model: Any) -> None:
    reasons = encoder_of(model).op_fallbacks
    expect(not reasons, f"the original path ran: {reasons}")


def fell_back(model: Any, reason: str) -> None:
    found = encoder_of(model).op_fallbacks
    expect(any(reason in each for each in found), f"no fallback says {reason!r}: {found}")


# --- checks of every family ------------------------------------------------------------------------------


def drop_in(family: Family) -> None:
    """A model that is created has the operator's encoder; fp32, any mask, each attention implementation."""
    tried = 0
    for attention in ("eager", "sdpa"):
        try:
            model = new_model(family.name, attention)
        except (ValueError, KeyError):  # the family does not offer it in this version
            continue
        tried += 1
        expect(type(encoder_of(model)).__name__ == family.op_name, f"it has {type(encoder_of(model))}")
        reference = hugging_face(model)
        for inputs in (
            batch(padded=False),
            batch(padded=True),
            {"input_ids": batch(padded=True)["input_ids"]},
        ):
            close(model(**inputs)[0], reference(**inputs)[0])
        ran_by_operator(model)
    expect(tried, "no attention implementation could be tried")


def four_precisions(family: Family) -> None:
    model = new_model(family.name)
    reference = hugging_face(model)
    inputs = batch(padded=True)
    keep = inputs["attention_mask"].bool()
    exact = copy.deepcopy(reference).double()(**inputs)[0]
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        in_torch = copy.deepcopy(reference).to(dtype)(**inputs)[0].double()
        found = bert_op.optimize(copy.deepcopy(reference), precision)(**inputs)[0].double()
        error, bound = ((each - exact).abs().max().item() for each in (found, in_torch))
        expect(error <= 2 * bound, f"{precision}: error {error:.2g}, torch's own in {dtype} {bound:.2g}")
        skipping = bert_op.optimize(copy.deepcopy(reference), precision, skip_padding=True)(**inputs)[0]
        error = (skipping.double() - exact)[keep].abs().max().item()
        expect(error <= 2 * bound, f"{precision}, padding skipped: error {error:.2g}")
        expect(not skipping[~keep].any(), f"{precision}: padded rows are not zero")
    for precision in ("fp32_qint8", "bf16_qint8"):
        optimized = bert_op.optimize(copy.deepcopy(reference), precision, skip_padding=False)
        cosine = nn.functional.cosine_similarity(optimized(**inputs)[0].double(), exact, dim=-1)
        expect(cosine.mean() > 0.998, f"{precision}: cosine {cosine.mean():.5f}")
        ran_by_operator(optimized)


def policies(family: Family) -> None:
    """What chooses the precision where the config says nothing of it, and where it does."""
    with bert_op.using(precision="bf16"):
        chosen = encoder_of(new_model(family.name)).op_policy.precision
    expect(chosen == "bf16", f"bf16 was chosen, but {chosen} runs")
    followed = bert_op.explain(new_model(family.name).to(torch.bfloat16))["precision"]
    expect(followed == "bf16", f"a model in bf16 runs in {followed}")
    optimized = encoder_of(bert_op.optimize(new_model(family.name))).op_policy.precision
    expect(optimized == "bf16_qint8", f"optimize chose {optimized}")
    by_config = encoder_of(new_model(family.name, use_bfloat16=True)).op_policy.precision
    expect(by_config == "bf16", f"use_bfloat16 was set, but {by_config} runs")


def recordings(family: Family) -> None:
    """Hidden states and attentions, by argument and by config; then the operator again."""
    model = new_model(family.name)
    reference = hugging_face(model)
    inputs = batch(padded=True)
    fields = ("hidden_states", "attentions")
    for field in fields:
        found, expected = (each(**inputs, **{f"output_{field}": True}) for each in (model, reference))
        expect(len(found[field]) == len(expected[field]) >= 2, f"{len(found[field])} {field}")
        equal(found[field], expected[field])
        equal(found[0], expected[0])
    fell_back(model, "hidden states or attentions are recorded")
    count = len(encoder_of(model).op_fallbacks)
    encoder_of(model).op_fallbacks.clear()
    expect(count == 1, "one reason was expected")
    close(model(**inputs)[0], reference(**inputs)[0])
    ran_by_operator(model)
    for each in (model, reference):
        each.config.output_hidden_states = True
    equal(model(**inputs).hidden_states, reference(**inputs).hidden_states)


def returns(family: Family) -> None:
    """The model's tuple, and whatever the encoder returns by itself, called in every way."""
    model = new_model(family.name)
    reference = hugging_face(model)
    inputs = batch(padded=True)
    found, expected = (each(**inputs, return_dict=False) for each in (model, reference))
    expect(type(found) is type(expected) is tuple and len(found) == len(expected), f"{type(found)}")
    close(found, expected)
    hidden_states = torch.randn(2, LENGTH, SIZES["hidden_size"])
    mask = torch.zeros(2, 1, 1, LENGTH)
    encoder, own = encoder_of(model), encoder_of(reference)
    parameters = list(inspect.signature(own.forward).parameters)
    if "attn_mask" in parameters:  # read as (batch, length)
        mask = torch.ones(2, LENGTH)
    rest = {"head_mask": [None] * 2} if "head_mask" in parameters else {}
    for flag in ({}, {"return_dict": True}, {"return_dict": False}, {"return_dict": None}):
        if "return_dict" not in parameters and flag:
            continue
        by_name = dict(zip(parameters, (hidden_states, mask), strict=False))
        for arguments, named in (((hidden_states, mask), {}), ((hidden_states,), by_name), ((), by_name)):
            named = {key: value for key, value in named.items() if not arguments or key != parameters[0]}
            found, expected = (each(*arguments, **named, **rest, **flag) for each in (encoder, own))
            expect(type(found) is type(expected), f"{flag}: {type(found)}, not {type(expected)}")
            expect(len(found) == len(expected), f"{flag}: {len(found)} values, not {len(expected)}")
            close(found[0], expected[0])
    ran_by_operator(model)
    for arguments in ((), (hidden_states,) * (len(parameters) + 3)):
        try:
            encoder(*arguments)
        except TypeError:
            continue
        raise AssertionError(f"{len(arguments)} arguments were taken")


def head_mask(family: Family) -> None:
    model = new_model(family.name)
    if "head_mask" not in inspect.signature(encoder_of(hugging_face(model)).forward).parameters:
        raise Skipped("this version has no head masks")
    reference = hugging_face(model)
    inputs = {**batch(padded=True), "head_mask": torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]])}
    if "head_mask" not in inspect.signature(model.forward).parameters:
        raise Skipped("the model passes none on")
    equal(model(**inputs)[0], reference(**inputs)[0])
    fell_back(model, "head_mask")


def pruned_heads(family: Family) -> None:
    model = new_model(family.name)
    if not hasattr(model, "prune_heads"):
        raise Skipped("this version prunes no heads")
    reference = hugging_face(model)
    try:
        reference.prune_heads({0: [1]})
    except (AttributeError, NotImplementedError, TypeError) as reason:
        raise Skipped(f"this version cannot: {type(reason).__name__}") from None
    model.prune_heads({0: [1]})
    try:
        expected = reference(**batch(padded=True))[0]
    except RuntimeError as reason:
        raise Skipped(f"pruned, it cannot run in this version: {reason}") from None
    equal(model(**batch(padded=True))[0], expected)
    fell_back(model, "were pruned")
    equal(bert_op.optimize(reference, "fp32")(**batch(padded=True))[0], expected)


def training(family: Family) -> None:
    model = new_model(family.name)
    reference = hugging_face(model)
    inputs = batch(padded=True)
    with torch.enable_grad():
        for each in (model, reference):
            torch.manual_seed(3)
            each.train()(**inputs)[0].square().sum().backward()
    for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
        expect((parameter.grad is None) == (other.grad is None), "a gradient is missing")
        if other.grad is not None:
            equal(parameter.grad, other.grad)
    fell_back(model, "training mode")


def saved(family: Family) -> None:
    model = bert_op.optimize(new_model(family.name), "bf16_qint8")
    inputs = batch(padded=True)
    expected = model(**inputs)[0]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder).eval()
    expect(encoder_of(again).op_policy == encoder_of(model).op_policy, "the options were not kept")
    equal(again(**inputs)[0], expected)
    equal(copy.deepcopy(model)(**inputs)[0], expected)


def decoder(family: Family) -> None:
    if family.call != "bert":
        raise Skipped("the family has no decoders")
    model = new_model(family.name, auto="AutoModelForCausalLM", is_decoder=True)
    reference = hugging_face(model)
    inputs = batch(padded=True)
    found, expected = model(**inputs), reference(**inputs)
    equal(found.logits, expected.logits)
    cache = next((name for name in ("past_key_values", "cache") if name in expected), None)
    if cache is None:  # ELECTRA before 5.0 gives none back
        fell_back(model, "the model is a decoder")
        return
    expect(found[cache].get_seq_length() == LENGTH, "no cache was filled")
    fell_back(model, "key/value cache")
    following = {"input_ids": inputs["input_ids"][:, :1]}
    equal(
        *(
            each(**following, **{cache: was[cache]}).logits
            for each, was in ((model, found), (reference, expected))
        )
    )


# --- graphs ----------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """Takes and returns tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return output


def graph_model(family: Family) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    if family.name not in RECORDED:
        raise Skipped("is called as BERT or LayoutLM is")
    model = Wrapped(bert_op.optimize(new_model(family.name), "bf16")).eval()
    inputs = tuple(batch(padded=True).values())
    return model, inputs, model(*inputs)


def traced(family: Family) -> str | None:
    model, inputs, expected = graph_model(family)
    note = None
    try:
        torch.jit.trace(Wrapped(hugging_face(model.model)), inputs, check_trace=False)
    except IndexError:  # 5.4 to 5.8, which take a traced length for a tensor of positions
        note = "the mask had 4 dimensions, for this version's own code cannot be traced with another"
        padding = torch.zeros(inputs[1].shape).masked_fill(inputs[1] == 0, torch.finfo(torch.float32).min)
        inputs = (inputs[0], padding[:, None, None, :])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.jit.save(torch.jit.freeze(torch.jit.trace(model, inputs, check_trace=False)), path)
        loaded = torch.jit.load(path)
    expect("bert_op::encoder" in str(loaded.inlined_graph), "the operator is not in the graph")
    loaded(*inputs)  # the second call is the optimized one
    equal(loaded(*inputs), expected)
    return note


def exported(family: Family) -> None:
    model, inputs, expected = graph_model(family)
    program = torch.export.export(model, inputs)
    expect("bert_op.encoder" in str(program.graph), "the operator is not in the graph")
    equal(program.module()(*inputs), expected)


def compiled(family: Family) -> str | None:
    """Where there is no C++ compiler, which inductor needs, by the backend that records the same graph."""
    model, inputs, expected = graph_model(family)
    compiler = shutil.which("g++") or shutil.which("clang++")
    backend = "inductor" if compiler else "aot_eager"
    torch._dynamo.reset()
    found = torch.compile(model, fullgraph=True, backend=backend)(*inputs)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    return None if compiler else "by backend aot_eager, for there is no C++ compiler"


CHECKS: tuple[Callable[[Family], str | None], ...] = (
    drop_in,
    four_precisions,
    policies,
    recordings,
    returns,
    head_mask,
    pruned_heads,
    training,
    saved,
    decoder,
    traced,
    exported,
    compiled,
)


def run(family: Family, check: Callable[[Family], str | None]) -> str:
    """`ok`, with a note if there is one, `skip: why` or `FAIL: how`."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            note = check(family)
    except Skipped as reason:
        return f"skip: {reason}"
    except Exception as error:
        traceback.print_exc()
        return f"FAIL: {type(error).__name__}: {error}".splitlines()[0][:160]
    return f"ok: {note}" if note else "ok"


def main(names: list[str]) -> int:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {bert_op.explain()['library']}"
    )
    unknown = set(names) - {family.name for family in FAMILIES}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(each.name for each in FAMILIES)}")
        return 2
    failed = 0
    for family in FAMILIES:
        if names and family.name not in names:
            continue
        if find_spec(family.module) is None:
            print(f"{family.name:24} skip: this version does not have it")
            continue
        import_module(family.module)
        for check in CHECKS:
            outcome = run(family, check)
            failed += outcome.startswith("FAIL")
            print(f"{family.name:24} {check.__name__:16} {outcome}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
