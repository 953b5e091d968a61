"""The seam with transformers: what is read off its encoders, and what happens where it is unknown."""

from __future__ import annotations

import functools
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import bert_op
import pytest
import torch
import transformers
from bert_op import _encoder, _families, _seam, _substitution
from bert_op._families import FAMILIES, Family
from bert_op._policy import Policy, policy_of_config, save_to_config
from bert_op._recording import replaced_forward
from bert_op._seam import ARGUMENTS, CACHE, CROSS_ATTENTION, RECORDED, Seam, UnexpectedSeam, read_seam
from family_models import batch, encoder_of, family, pair, tiny
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple


@pytest.fixture(autouse=True)
def every_warning_is_new() -> Iterator[None]:
    _seam.warn_once.cache_clear()
    yield
    _seam.warn_once.cache_clear()


def forward_taking(parameters: str) -> Any:
    """A forward with these parameters that does nothing."""
    namespace: dict[str, Any] = {}
    exec(f"def forward(self, {parameters}): pass", namespace)
    return namespace["forward"]


# As they are in the versions named, family by family; what differs from these, differs in no more than names.
BERT_4 = (
    "hidden_states, attention_mask=None, head_mask=None, encoder_hidden_states=None, "
    "encoder_attention_mask=None, past_key_values=None, use_cache=None, output_attentions=False, "
    "output_hidden_states=False, return_dict=True, cache_position=None"
)
BERT_5_0 = (
    "hidden_states, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None, "
    "past_key_values=None, use_cache=None, cache_position=None, **kwargs"
)
BERT_5_24 = (
    "hidden_states, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None, "
    "cache=None, use_cache=None, **kwargs"
)
LAYOUTLM_4 = (
    "hidden_states, attention_mask=None, head_mask=None, output_attentions=False, "
    "output_hidden_states=False, return_dict=True, **kwargs"
)
DISTILBERT_4 = (
    "x, attn_mask=None, head_mask=None, output_attentions=False, output_hidden_states=False, return_dict=None"
)
MPNET_4 = LAYOUTLM_4.replace("return_dict=True", "return_dict=False")
PLAIN_5_4 = "hidden_states, attention_mask=None, **kwargs"


def seam_of(parameters: str) -> Seam:
    return read_seam(forward_taking(parameters))


@pytest.mark.parametrize(
    ("parameters", "names", "records", "return_dict"),
    [
        (BERT_4, ("hidden_states", "attention_mask"), True, True),
        (BERT_5_0, ("hidden_states", "attention_mask"), False, True),
        (BERT_5_24, ("hidden_states", "attention_mask"), False, True),
        (LAYOUTLM_4, ("hidden_states", "attention_mask"), True, True),
        (DISTILBERT_4, ("x", "attn_mask"), True, False),
        (MPNET_4, ("hidden_states", "attention_mask"), True, False),
        (PLAIN_5_4, ("hidden_states", "attention_mask"), False, True),
    ],
)
def test_seams_of_known_versions(
    parameters: str, names: tuple[str, str], records: bool, return_dict: bool
) -> None:
    seam = seam_of(parameters)
    assert (seam.hidden_states, seam.attention_mask) == names
    assert seam.parameters[:2] == names
    assert seam.asked_for_recordings == records
    assert seam.return_dict_of({}) is return_dict
    assert seam.asked({"hidden_states": 1, "attention_mask": 1, "x": 1, "attn_mask": 1}) is None


@pytest.mark.parametrize(
    ("parameters", "argument", "reason"),
    [
        (BERT_4, {"head_mask": [None, None]}, None),
        (BERT_4, {"head_mask": [None, torch.ones(1)]}, "argument head_mask was given"),
        (BERT_4, {"head_mask": torch.ones(2, 1)}, "argument head_mask was given"),
        (BERT_4, {"output_attentions": True}, RECORDED),
        (BERT_5_0, {"output_hidden_states": True}, RECORDED),
        (MPNET_4, {"output_hidden_states": True}, RECORDED),
        (BERT_4, {"output_hidden_states": False, "use_cache": False, "return_dict": False}, None),
        (BERT_4, {"encoder_hidden_states": torch.ones(1)}, CROSS_ATTENTION),
        (BERT_5_24, {"encoder_attention_mask": torch.ones(1)}, CROSS_ATTENTION),
        (BERT_4, {"past_key_values": object()}, CACHE),
        (BERT_5_24, {"cache": object()}, CACHE),
        (BERT_5_24, {"past_key_values": object()}, CACHE),
        (BERT_4, {"use_cache": True}, CACHE),
        (PLAIN_5_4, {"use_cache": True}, None),  # the model passes what its config says; no encoder reads it
        (BERT_4, {"cache_position": torch.arange(3)}, None),
        (PLAIN_5_4, {"position_ids": torch.arange(3), "num_items_in_batch": 3}, None),
        (PLAIN_5_4, {"bbox": torch.ones(1)}, "argument bbox was given"),
    ],
)
def test_arguments_that_the_operator_does_not_do(
    parameters: str, argument: dict[str, Any], reason: str | None
) -> None:
    assert seam_of(parameters).asked(argument) == reason


def test_calls_are_bound_by_position_and_by_name() -> None:
    seam = seam_of(BERT_4)
    assert seam.bind((1, 2), {"use_cache": 3}) == {"hidden_states": 1, "attention_mask": 2, "use_cache": 3}
    assert seam.bind((), {"hidden_states": 1, "other": 2}) == {"hidden_states": 1, "other": 2}
    assert seam.bind((), {"attention_mask": 1}) is None
    assert seam.bind((1,), {"hidden_states": 1}) is None
    assert seam.bind((1,) * 12, {}) is None


def test_return_dict_is_read_as_the_encoder_reads_it() -> None:
    assert seam_of(BERT_4).return_dict_of({"return_dict": False}) is False
    assert seam_of(BERT_4).return_dict_of({"return_dict": None}) is False
    assert seam_of(DISTILBERT_4).return_dict_of({"return_dict": True}) is True
    assert (
        seam_of(BERT_5_0).return_dict_of({"return_dict": False}) is True
    )  # among **kwargs that nobody reads
    decorated = read_seam(can_return_tuple(forward_taking(LAYOUTLM_4)))
    assert decorated.return_dict_of({}) is decorated.return_dict_of({"return_dict": None}) is None
    assert decorated.return_dict_of({"return_dict": False}) is False


def unknown_decorator(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (forward_taking("hidden_states, attention_mask=None, rope=None"), "takes rope, as that of no known"),
        (forward_taking("hidden_states, attention_mask=None, *args"), "takes args"),
        (forward_taking("hidden_states, /, attention_mask=None"), "takes hidden_states"),
        (forward_taking("hidden_states, **kwargs"), "not one input and one mask"),
        (forward_taking("attention_mask, hidden_states"), "not one input and one mask"),
        (unknown_decorator(forward_taking(BERT_5_0)), r"decorated with .*versions\.unknown_decorator"),
    ],
)
def test_unknown_forwards_are_refused(forward: Any, reason: str) -> None:
    with pytest.raises(UnexpectedSeam, match=reason):
        read_seam(forward)


def test_rows_are_of_different_arguments() -> None:
    assert len({argument.name for argument in ARGUMENTS}) == len(ARGUMENTS)


def test_every_family_has_a_seam_in_the_installed_version() -> None:
    assert _seam.installed_version() == transformers.__version__
    assert _seam.too_old() is None
    for each in FAMILIES:
        assert each.seam.parameters
        assert each.parts


# --- versions that are too old ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("4.55.4", True),
        ("4.9.0", True),
        ("3.5.1", True),
        ("4.56.0.dev0", False),
        ("4.56.0", False),
        ("4.100.0", False),
        ("5.0.0rc1", False),
        ("10.0", False),
        ("unknown", False),
    ],
)
def test_old_versions_are_told_by_number(monkeypatch: pytest.MonkeyPatch, version: str, old: bool) -> None:
    monkeypatch.setattr(transformers, "__version__", version)
    assert (_seam.too_old() is not None) == old


def test_an_old_version_is_left_alone_and_optimize_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, reference = pair("bert")
    monkeypatch.setattr(transformers, "__version__", "4.55.4")
    monkeypatch.setattr(_substitution, "_substitute", lambda *_: pytest.fail("something was substituted"))
    finders = list(sys.meta_path)
    with pytest.warns(bert_op.BertOpWarning) as caught:
        _substitution.substitute_on_import()
    (warning,) = caught
    sentence = str(warning.message)
    assert sentence.startswith("bert_op needs transformers 4.56 or newer, but 4.55.4 is installed: ")
    assert sys.meta_path == finders
    with pytest.raises(ValueError) as refused:
        bert_op.optimize(reference, "fp32")
    assert str(refused.value) == sentence
    assert bert_op.explain(reference)["fallbacks"][0]["reason"] == sentence
    assert type(encoder_of(reference)) is family("bert").encoder
    with pytest.raises(AttributeError, match=r"BertEncoderOp: bert_op needs transformers 4\.56"):
        _encoder.__getattr__("BertEncoderOp")


def test_import_reads_the_version_without_importing_transformers() -> None:
    program = "import sys, bert_op; print(sorted(n for n in sys.modules if n.startswith('transformers')))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[]", "")


# --- seams that look unlike any known one ----------------------------------------------------------------


class Encoder(nn.Module):
    """As transformers might have it in a version to come."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList([nn.ModuleDict({"attention": nn.Linear(2, 2)})])

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return hidden_states + 1


class TakesMore(Encoder):
    def forward(self, hidden_states: Tensor, attention_mask: Any = None, rope: Any = None) -> Tensor:  # type: ignore[override]
        return hidden_states + 1


def future(monkeypatch: pytest.MonkeyPatch, encoder: type[nn.Module], **classes: Any) -> tuple[Family, Any]:
    """A family whose module has this encoder and these classes."""
    module = types.ModuleType("transformers_to_come")
    parts = {"ToComeLayer": nn.ReLU, **classes}
    for name, value in {"ToComeEncoder": encoder, **parts}.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = Family("to-come", module.__name__, "ToCome", "ToComeEncoder", ("ToComeLayer",), "plain")
    monkeypatch.setitem(_families._BY_CLASS, (encoder.__module__, encoder.__qualname__), made)
    return made, module


def refused_with(encoder: nn.Module) -> str:
    with pytest.raises(ValueError) as refused:
        bert_op.optimize(nn.Sequential(encoder), "fp32")
    return str(refused.value)


@pytest.mark.parametrize(
    ("encoder", "classes", "reason"),
    [
        (TakesMore, {}, "its forward takes rope, as that of no known version does"),
        (Encoder, {"ToComeLayer": None}, "transformers_to_come has no class ToComeLayer"),
    ],
)
def test_an_unknown_seam_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, encoder: type[nn.Module], classes: dict[str, Any], reason: str
) -> None:
    made, module = future(monkeypatch, encoder, **classes)
    if None in classes.values():
        del module.ToComeLayer
    with pytest.warns(bert_op.BertOpWarning) as caught:
        _substitution._substitute(made, module)
        _substitution._substitute(made, module)  # says it once
    (warning,) = caught
    sentence = str(warning.message)
    assert sentence.startswith(
        f"bert_op leaves to-come models as transformers {transformers.__version__} has"
    )
    assert f"because {reason}" in sentence
    assert module.ToComeEncoder is encoder
    original = encoder(tiny("bert"))
    assert _families.family_of(original) is None
    assert refused_with(original) == sentence
    assert type(original) is encoder and original(torch.zeros(1)).item() == 1


def test_what_cannot_be_imported_does_not_keep_hugging_faces_module_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, module = future(monkeypatch, Encoder)
    monkeypatch.setitem(sys.modules, "bert_op._encoder", None)
    with pytest.warns(bert_op.BertOpWarning, match=r"leaves to-come models .* because .*bert_op\._encoder"):
        _substitution._substitute(made, module)
    assert module.ToComeEncoder is Encoder


def test_layers_that_are_built_otherwise_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made, module = future(monkeypatch, Encoder)
    _substitution._substitute(made, module)
    try:
        with pytest.warns(
            bert_op.BertOpWarning, match=r"leaves to-come models .* because .*attribute"
        ) as caught:
            first, second = (module.ToComeEncoder(tiny("bert")) for _ in range(2))
        assert len(caught) == 1
        for encoder in (first, second):
            assert type(encoder) is Encoder and encoder.eval()(torch.zeros(1)).item() == 1
        assert refused_with(first) == str(caught[0].message)
    finally:
        vars(_encoder).pop("ToComeEncoderOp", None)


def test_a_config_without_an_attention_implementation_is_unknown() -> None:
    _, reference = pair("bert")
    encoder = encoder_of(reference)
    encoder.config = types.SimpleNamespace(
        hidden_size=128, num_attention_heads=4, num_hidden_layers=2, hidden_act="gelu", intermediate_size=192
    )
    assert "_attn_implementation" in str(_families.unexpected_in(encoder, family("bert")))


def test_models_that_record_in_an_unknown_way_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from bert_op import _recording

    monkeypatch.setattr(_recording, "way_is_known", lambda: False)
    made, _ = future(monkeypatch, Encoder)
    with pytest.raises(UnexpectedSeam, match="record hidden states in an unknown way"):
        _ = made.seam


# --- what versions leave in the layers -------------------------------------------------------------------


def test_a_forward_left_behind_by_a_recording_is_idle() -> None:
    model, reference = pair("bert")
    for layer in encoder_of(model).layer:
        layer.forward = layer.forward  # as 5.0 and 5.1 do after output_hidden_states=True
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", bert_op.BertOpWarning)
        output = model(**batch()).last_hidden_state
        torch.testing.assert_close(output, reference(**batch()).last_hidden_state, atol=2e-5, rtol=2e-5)


def test_a_forward_that_records_asks_for_the_original_path() -> None:
    model, _ = pair("bert")
    layer = encoder_of(model).layer[0]
    # A function of the module that records, as far as its globals tell.
    recorder = types.FunctionType(
        (lambda *args, **kwargs: None).__code__, {"__name__": "transformers.utils.generic"}
    )
    assert replaced_forward([{}, {"forward": recorder}]) == RECORDED
    seen = []
    own = layer.forward
    layer.forward = lambda *args, **kwargs: seen.append(1) or own(*args, **kwargs)
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="forward method of a module .* replaced"):
        model(**batch())
    assert seen == [1]
    layer.forward = encoder_of(model).layer[1].forward  # a method of the right class, but of another layer
    encoder_of(model).op_fallbacks.clear()
    with torch.no_grad(), pytest.warns(bert_op.BertOpWarning, match="was replaced"):
        model(**batch())


def test_what_every_config_of_a_version_has_is_not_said_by_one() -> None:
    """Before 5.0 `use_bfloat16` is False in every config."""

    class Bare:
        def __init__(self) -> None:
            self.use_bfloat16 = False
            self.num_hidden_layers = 1

    Bare.__module__ = "transformers.configuration_utils"

    class Config(Bare):
        pass

    config = Config()
    assert _seam.said(config, "use_bfloat16") is None
    assert policy_of_config(config, Policy("bf16")).precision == "bf16"
    save_to_config(config, Policy("bf16"))
    assert config.use_bfloat16 is False and config.bert_op["precision"] == "bf16"
    config.use_bfloat16 = True
    assert _seam.said(config, "use_bfloat16") is True
    assert policy_of_config(config, Policy("fp32")).precision == "bf16"
    assert _seam.said(tiny("bert", use_bfloat16=False), "use_bfloat16") is (
        None if hasattr(transformers.PretrainedConfig(), "use_bfloat16") else False
    )


def test_pruned_heads_ask_for_the_original_path() -> None:
    model, _ = pair("bert")
    encoder_of(model).layer[1].attention.pruned_heads = {0}
    with (
        torch.no_grad(),
        pytest.warns(bert_op.BertOpWarning, match="in layer 1, heads of attention were pruned"),
    ):
        bert_op.optimize(model, "fp32")(**batch())


def test_a_mask_that_is_viewed_by_batch_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """DistilBERT before 5.0, eager: 0 is padding, also in a mask of 4 dimensions."""
    model, _ = pair("distilbert", _attn_implementation="eager")
    encoder = encoder_of(model)
    earlier = seam_of(DISTILBERT_4)
    monkeypatch.setattr(type(encoder), "seam", earlier)
    assert encoder._mask_reason(torch.ones(2, 6)) is None
    assert encoder._mask_reason(None) is None
    assert encoder._mask_reason(torch.zeros(2, 1, 1, 6)) == "the attention mask is viewed as (batch, length)"
    _families.config_of(encoder)._attn_implementation = "sdpa"
    assert encoder._mask_reason(torch.zeros(2, 1, 6, 6)) is None
    with torch.no_grad():
        hidden_states, keep = torch.randn(2, 6, 128), (torch.arange(6) < torch.tensor([[6], [3]])).long()
        (by_name,) = encoder(x=hidden_states, attn_mask=keep, head_mask=[None, None])
        by_position = encoder(hidden_states, keep, [None, None], False, False, True)
        assert torch.equal(by_name, by_position.last_hidden_state)
