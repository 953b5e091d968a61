"""The model families that the operators can run, and what each of them calls the parts of a layer.

One row of `FAMILIES` a family. A layer of every family is the same mathematics: self-attention, output
projection, residual and LayerNorm, feed-forward, residual and LayerNorm. The table holds names only: Hugging
Face's module of a family is imported when its classes are first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

from torch import nn

from bert_op._seam import EARLIER_PARTS, Seam, UnexpectedSeam, left_alone, read_seam

HEAD_SIZES = (32, 64, 96, 128)

# Hugging Face's name of an activation -> the operator's. The tanh approximations differ in rounding only.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_new": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
}

# query, key, value, attention output, its LayerNorm, intermediate, output, its LayerNorm; activation.
_BERT_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_MPNET_LAYER = (
    "attention.attn.q",
    "attention.attn.k",
    "attention.attn.v",
    "attention.attn.o",
    "attention.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_DISTILBERT_LAYER = (
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)
_BERT_PARTS = ("Attention", "Intermediate", "Layer", "Output", "SelfAttention", "SelfOutput")


@dataclass(frozen=True)
class Family:
    """Where an encoder of one family keeps what the operator needs.

    Attributes:
        name: the family's `model_type` in Hugging Face.
        module: full name of Hugging Face's module.
        prefix: what the names of its classes begin with.
        encoder_name, part_names: of the encoder's class, and of those that its layers consist of.
        call: what its encoder returns and adds to the scores, an entry of `bert_op._encoder.CALLS`.
        weighted: paths, in a layer, of the 8 modules with a weight and a bias, in the order of `prepack`:
            query, key, value, attention output, its LayerNorm, intermediate, output, its LayerNorm.
        activation: path, in a layer, of the activation module.
        layers: path of the `nn.ModuleList` of layers in the encoder.
        config_holder: path, in the encoder, of a module that has the config.
        config_names: what the config calls `hidden_act` and `intermediate_size`.
    """

    name: str
    module: str
    prefix: str
    encoder_name: str
    part_names: tuple[str, ...]
    call: Literal["bert", "plain", "mpnet"]
    weighted: tuple[str, ...] = _BERT_LAYER
    activation: str = "intermediate.intermediate_act_fn"
    layers: str = "layer"
    config_holder: str = ""
    config_names: tuple[str, str] = ("hidden_act", "intermediate_size")

    @property
    def op_name(self) -> str:
        """The name of the encoder class that `bert_op` puts in the place of the family's own."""
        return f"{self.prefix}EncoderOp"

    @cached_property
    def encoder(self) -> type[nn.Module]:
        """The family's own encoder class, whether or not another one is in its place by now."""
        (found,) = self._classes(self.encoder_name)
        own: type[nn.Module] = getattr(found, "original", found)
        return own

    @cached_property
    def parts(self) -> frozenset[type[nn.Module]]:
        """The module types that a layer consists of, beside the activation."""
        own = (self._classes(part, *EARLIER_PARTS.get(part, ())) for part in self.part_names)
        return frozenset({nn.Dropout, nn.LayerNorm, nn.Linear}.union(*own))

    @cached_property
    def seam(self) -> Seam:
        """How its encoder is called."""
        from bert_op._recording import way_is_known  # transformers is imported by now: the encoder's class is

        seam = read_seam(self.encoder.forward)
        if not seam.asked_for_recordings and not way_is_known():
            raise UnexpectedSeam("its models record hidden states in an unknown way")
        if self.call == "mpnet" and not hasattr(self.encoder, "compute_position_bias"):
            raise UnexpectedSeam(f"{self.encoder_name} has no compute_position_bias")
        return seam

    def _classes(self, *names: str) -> set[type[nn.Module]]:
        """Those of these classes that Hugging Face's module has; UnexpectedSeam if it has none of them."""
        module = import_module(self.module)
        found = {getattr(module, name) for name in names if hasattr(module, name)}
        if not found:
            raise UnexpectedSeam(f"{self.module} has no class {' or '.join(names)}")
        return found


def _like_bert(
    name: str, module: str, prefix: str, call: Literal["bert", "plain"] = "bert", encoder_name: str = ""
) -> Family:
    """A family whose classes differ from BERT's, or `plain` from LayoutLM's, in nothing but names."""
    return Family(
        name=name,
        module=f"transformers.models.{module}",
        prefix=prefix,
        encoder_name=encoder_name or f"{prefix}Encoder",
        part_names=tuple(prefix + part for part in _BERT_PARTS),
        call=call,
    )


FAMILIES = (
    _like_bert("bert", "bert.modeling_bert", "Bert"),
    _like_bert("roberta", "roberta.modeling_roberta", "Roberta"),
    _like_bert("xlm-roberta", "xlm_roberta.modeling_xlm_roberta", "XLMRoberta"),
    _like_bert("camembert", "camembert.modeling_camembert", "Camembert"),
    _like_bert("electra", "electra.modeling_electra", "Electra"),
    _like_bert("ernie", "ernie.modeling_ernie", "Ernie"),
    _like_bert("data2vec-text", "data2vec.modeling_data2vec_text", "Data2VecText"),
    _like_bert("roc_bert", "roc_bert.modeling_roc_bert", "RoCBert"),
    _like_bert(
        "bert-generation",
        "bert_generation.modeling_bert_generation",
        "BertGeneration",
        encoder_name="BertEncoder",
    ),
    _like_bert("layoutlm", "layoutlm.modeling_layoutlm", "LayoutLM", "plain"),
    _like_bert("markuplm", "markuplm.modeling_markuplm", "MarkupLM", "plain"),
    _like_bert("splinter", "splinter.modeling_splinter", "Splinter", "plain"),
    _like_bert("align_text_model", "align.modeling_align", "AlignText", "plain"),
    _like_bert("chinese_clip_text_model", "chinese_clip.modeling_chinese_clip", "ChineseCLIPText", "plain"),
    _like_bert("clap_text_model", "clap.modeling_clap", "ClapText", "plain"),
    Family(
        name="distilbert",
        module="transformers.models.distilbert.modeling_distilbert",
        prefix="DistilBert",
        encoder_name="Transformer",
        part_names=("DistilBertSelfAttention", "FFN", "TransformerBlock"),
        call="plain",
        weighted=_DISTILBERT_LAYER,
        activation="ffn.activation",
        config_holder="layer.0.attention",
        config_names=("activation", "hidden_dim"),
    ),
    Family(
        name="mpnet",
        module="transformers.models.mpnet.modeling_mpnet",
        prefix="MPNet",
        encoder_name="MPNetEncoder",
        part_names=("MPNetAttention", "MPNetIntermediate", "MPNetLayer", "MPNetOutput", "MPNetSelfAttention"),
        call="mpnet",
        weighted=_MPNET_LAYER,
    ),
)

# Models that people may take for one of the above -> why the operator cannot run them.
REFUSED = {
    "albert": "all its layers share one set of weights",
    "big_bird": "its attention is block-sparse",
    "canine": "it attends locally and downsamples characters between its layers",
    "convbert": "it mixes convolution into its attention",
    "deberta": "its attention is disentangled",
    "deberta-v2": "its attention is disentangled",
    "esm": "its LayerNorms come before attention and feed-forward, and its positions may be rotary",
    "eurobert": "its positions are rotary and its feed-forward is gated",
    "funnel": "it shortens the sequence between its layers",
    "ibert": "it computes in simulated integers",
    "jina_embeddings_v3": "its positions are rotary and its weights depend on the task",
    "lilt": "it joins two streams, text and layout, in its attention",
    "longformer": "its attention is a sliding window",
    "luke": "it attends to words and entities by different queries",
    "megatron-bert": "its LayerNorms come before attention and feed-forward",
    "mobilebert": "its layers have bottlenecks and stacked feed-forwards",
    "modernbert": "its LayerNorms come first, its positions are rotary and its feed-forward is gated",
    "nomic_bert": "its positions are rotary and its feed-forward is gated",
    "nystromformer": "its attention is approximated",
    "rembert": "its encoder projects the embeddings and computes attention in its own way",
    "roberta-prelayernorm": "its LayerNorms come before attention and feed-forward",
    "roformer": "its positions are rotary",
    "squeezebert": "its linear layers are grouped convolutions",
    "tapas": "its layers return tuples and keep a cache of their own",
    "visual_bert": "its layers return tuples and take images beside text",
    "xlm-roberta-xl": "its LayerNorms come before attention and feed-forward",
    "xmod": "it has an adapter for each language in every layer",
    "yoso": "its attention is approximated",
}

# What every config has, beside `Family.config_names`.
_CONFIG_NAMES = ("_attn_implementation", "hidden_size", "num_attention_heads", "num_hidden_layers")

_BY_CLASS = {(family.module, family.encoder_name): family for family in FAMILIES}


def family_of(encoder: nn.Module) -> Family | None:
    """The family of `encoder`, which is of the family's own class and built as the family is, or of the class
    that `bert_op` puts in its place.

    Any other subclass, also one of ours, may compute something else, so it belongs to no family.
    """
    ours: Family | None = vars(type(encoder)).get("family")
    if isinstance(ours, Family):
        return ours
    family = family_of_class(type(encoder))
    return family if family is not None and unexpected_in(encoder, family) is None else None


def family_of_class(kind: type[nn.Module]) -> Family | None:
    """The family whose own encoder class `kind` is, by its name."""
    return _BY_CLASS.get((kind.__module__, kind.__qualname__))


def unexpected_in(encoder: nn.Module, family: Family) -> str | None:
    """What the installed transformers has otherwise in an encoder that is called as `family`'s, or None."""
    try:
        _ = family.encoder, family.parts, family.seam
        layers = list(encoder.get_submodule(family.layers)._modules.values())
        own = [layer for layer in layers if type(layer) in family.parts]  # a user may have replaced some
        for layer in (own or layers)[:1]:
            for path in (*family.weighted, family.activation):
                layer.get_submodule(path)
            config = _config_of(encoder, family)
            for name in (*_CONFIG_NAMES, *family.config_names):
                getattr(config, name)
    except (AttributeError, UnexpectedSeam) as reason:
        return str(reason)
    return None


def left_alone_in(model: nn.Module) -> str | None:
    """The sentence about an encoder in `model` that is a family's by its name, but `unexpected_in` it."""
    for module in model.modules():
        family = family_of_class(type(module))
        if family is not None and (reason := unexpected_in(module, family)):
            return left_alone(family.name, reason)
    return None


def _names_of(encoder: nn.Module) -> Family:
    """The family by whose names `encoder` keeps its parts; a subclass inherits them."""
    inherited = getattr(type(encoder), "family", None)
    found = inherited if isinstance(inherited, Family) else family_of(encoder)
    assert found is not None
    return found


def encoders_of(model: nn.Module) -> dict[str, nn.Module]:
    """The encoders in `model` that belong to a family, by their names in it (`""` is the model itself)."""
    return {name: module for name, module in model.named_modules() if family_of(module) is not None}


def layers_of(encoder: nn.Module) -> int:
    """How many layers an encoder has that belongs to a family, or is a subclass of ours."""
    family = _names_of(encoder)
    return len(encoder.get_submodule(family.layers)._modules)  # one that is there twice counts twice


def config_of(encoder: nn.Module) -> Any:
    """The config of an encoder that belongs to a family, or is a subclass of ours; None if it has no layer
    that could hold it.
    """
    return _config_of(encoder, _names_of(encoder))


def _config_of(encoder: nn.Module, family: Family) -> Any:
    if not family.config_holder:
        return encoder.get_submodule("").config
    _, _, inside = family.config_holder.partition(".0.")
    for layer in encoder.get_submodule(family.layers)._modules.values():
        holder: Any = getattr(layer, inside, None)  # a layer may be replaced by some other module
        if hasattr(holder, "config"):
            return holder.config
    return None


def refusal(model: nn.Module) -> str | None:
    """Which model of `REFUSED` is in `model`, and why the operator cannot run it, or None."""
    for module in model.modules():
        model_type = getattr(getattr(module, "config", None), "model_type", None)
        if model_type in REFUSED:
            return f"{model_type} is another architecture: {REFUSED[model_type]}"
    return None


def unsupported_sizes(config: Any, family: Family = FAMILIES[0]) -> str | None:
    """Why the operator cannot run an encoder of `config`'s sizes and kind, or None if it can."""
    hidden_act, intermediate_size = (getattr(config, name) for name in family.config_names)
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        return "the model is a decoder"
    if hidden_act not in ACTIVATIONS:
        return f"activation {hidden_act!r} is not one of {', '.join(ACTIVATIONS)}"
    if config.hidden_size % 32 or intermediate_size % 32:
        return (
            f"hidden_size={config.hidden_size} and intermediate_size={intermediate_size} "
            "are not both multiples of 32"
        )
    head_size = config.hidden_size // config.num_attention_heads
    if head_size not in HEAD_SIZES or head_size * config.num_attention_heads != config.hidden_size:
        return f"head size {config.hidden_size / config.num_attention_heads:g} is not one of {HEAD_SIZES}"
    return None
