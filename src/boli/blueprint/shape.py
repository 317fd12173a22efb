"""The sizes that all families share, read from `config.json` and from GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from boli.blueprint.config import Activation, LayerType
from boli.blueprint.fields import Fields
from boli.errors import UnsupportedModel


class Shape(TypedDict):
    """The part of `Config` that is read in the same way for every family."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


# Fields of config.json which change what a model computes and which boli does not run, with the
# values that switch them off.
REFUSED_BY_HF: Mapping[str, tuple[object, ...]] = {
    "quantization_config": (),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "partial_rotary_factor": (1,),
    "num_local_experts": (0, 1),
    "num_experts": (0, 1),
    "alibi": (False,),
    "clip_qkv": (0,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "residual_multiplier": (1,),
    "embedding_multiplier": (1,),
    "attention_multiplier": (),
    "no_rope_layers": ([],),
    "use_qk_norm": (False,),
    "use_mrope": (False,),
}
REFUSED_BY_GGUF: Mapping[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.causal": (True,),
    "attention.q_lora_rank": (0,),
    "attention.kv_lora_rank": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "use_parallel_residual": (False,),
    "swin_norm": (False,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
}
ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
LAYER_TYPES: Mapping[object, LayerType] = {"full_attention": "full", "sliding_attention": "sliding"}


def from_hf(fields: Fields, defaults: Mapping[str, object] | None = None) -> Shape:
    """Sizes from `config.json`.

    Args:
        fields: The configuration.
        defaults: What the family's class in transformers takes where a field is absent.
            A size without a default must be there.
    """
    fields.refuse(REFUSED_BY_HF)
    fields = Fields({**(defaults or {}), **fields.values}, source=fields.source)
    hidden = fields.integer("hidden_size", "hidden_size")
    heads = fields.integer("num_attention_heads", "num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", "num_key_value_heads", heads)
    fields.require(
        heads % kv_heads == 0, "num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}"
    )
    return Shape(
        vocab_size=fields.integer("vocab_size", "vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", "intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers", "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_head_dim(fields, "head_dim", "num_attention_heads", hidden, heads),
        max_position_embeddings=fields.integer("max_position_embeddings", "max_position_embeddings"),
        bos_token_id=fields.token_id("bos_token_id"),
        eos_token_ids=fields.token_ids("eos_token_id"),
    )


def from_gguf(fields: Fields, vocab_size: int) -> Shape:
    """Sizes from GGUF metadata; `fields` has the architecture's prefix."""
    fields.refuse(REFUSED_BY_GGUF)
    special = Fields(fields.values, source=fields.source, prefix="tokenizer.ggml.")
    layers = fields.integer("block_count", "num_hidden_layers")
    hidden = fields.integer("embedding_length", "hidden_size")
    heads = _same_in_all_layers(fields, "attention.head_count", "num_attention_heads", layers)
    kv_heads = _same_in_all_layers(fields, "attention.head_count_kv", "num_key_value_heads", layers, heads)
    fields.require(
        heads % kv_heads == 0, "attention.head_count_kv", f"a divisor of head_count, which is {heads}"
    )
    head_dim = _head_dim(fields, "attention.key_length", "attention.head_count", hidden, heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.integer(key, "head_dim", head_dim) != head_dim:
            raise fields.unsupported(key, f"heads are {head_dim} wide; boli wants all their parts alike")
    return Shape(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=_same_in_all_layers(fields, "feed_forward_length", "intermediate_size", layers),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=fields.integer("context_length", "max_position_embeddings"),
        bos_token_id=special.token_id("bos_token_id"),
        eos_token_ids=tuple(
            dict.fromkeys(
                end
                for key in ("eos_token_id", "eot_token_id", "eom_token_id")
                if (end := special.token_id(key)) is not None
            )
        ),
    )


def activation(fields: Fields, default: str, *keys: str) -> Activation:
    """The activation named by the first of `keys` that is present."""
    key = next((key for key in keys if fields.get(key) is not None), keys[0])
    name = fields.word(key, default)
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{fields.source}: boli does not run the activation {name!r}",
            cause=f"it runs {', '.join(ACTIVATIONS)}",
        )
    return ACTIVATIONS[name]


def layer_types(fields: Fields, layers: int) -> tuple[LayerType, ...] | None:
    """`layer_types` of `config.json`, or None where it is absent."""
    listed = fields.items("layer_types", layers)
    if listed is None:
        return None
    for kind in listed:
        if not isinstance(kind, str) or kind not in LAYER_TYPES:
            raise UnsupportedModel(
                f"{fields.source}: boli does not run layers of type {str(kind)[:80]!r}",
                cause=f"it runs {' and '.join(map(str, LAYER_TYPES))}",
            )
    return tuple(LAYER_TYPES[kind] for kind in listed)


def _head_dim(fields: Fields, key: str, heads_key: str, hidden: int, heads: int) -> int:
    if fields.get(key) is None:
        fields.require(hidden % heads == 0, heads_key, f"a divisor of the hidden size, which is {hidden}")
    head_dim = fields.integer(key, "head_dim", hidden // heads)
    fields.require(head_dim % 2 == 0, key, "an even number: rotary embeddings turn pairs")
    return head_dim


def _same_in_all_layers(
    fields: Fields, key: str, meaning: str, layers: int, default: int | None = None
) -> int:
    """A number that GGUF may give once or for each layer; boli wants all layers alike."""
    value = fields.get(key)
    if isinstance(value, int) or value is None:
        return fields.integer(key, meaning, default)
    each = set(fields.items(key, layers) or ())
    if len(each) != 1:
        raise fields.unsupported(key, "it differs between layers")
    return Fields({key: each.pop()}, source=fields.source).integer(key, meaning)
