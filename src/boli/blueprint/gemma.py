"""Gemma 3, text: sliding and full layers with a rotary base each, four norms a layer, norms on q and k.

Gemma Team 2025, https://arxiv.org/abs/2503.19786. The text part of a multimodal checkpoint runs
too; its vision weights are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from boli.blueprint import rope, shape
from boli.blueprint.config import Config, LayerType, Rope
from boli.blueprint.fields import Fields
from boli.blueprint.layout import Layout, blueprint
from boli.blueprint.weights import Blueprint

GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0
SLIDING_PATTERN = 6  # every sixth layer sees everything
LAYERS_OF_27B = 62

# What a multimodal config.json leaves out of its text_config.
DEFAULTS: dict[str, object] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
TEXT_PREFIXES = ("model.", "")
MULTIMODAL_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.")


def from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `Gemma3ForCausalLM`."""
    config = _from_hf(fields)
    bias = fields.flag("attention_bias", default=False)
    layout = Layout(prefixes=TEXT_PREFIXES, qkv_bias=bias, o_bias=bias, safetensors_norm="plus_one")
    return blueprint(config, layout)


def from_hf_multimodal(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `Gemma3ForConditionalGeneration`: its language model."""
    text = fields.group("text_config") or Fields({}, source=f"{fields.source}: text_config")
    # Ends of generation and tying are said at the top.
    outer = {
        key: fields.values[key]
        for key in ("bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config")
        if fields.get(key) is not None
    }
    text = Fields({**text.values, **outer}, source=text.source)
    config = _from_hf(text)
    bias = text.flag("attention_bias", default=False)
    layout = Layout(
        prefixes=MULTIMODAL_PREFIXES,
        heads=("lm_head.weight", "language_model.lm_head.weight"),
        qkv_bias=bias,
        o_bias=bias,
        safetensors_norm="plus_one",
    )
    return blueprint(config, layout)


def _from_hf(fields: Fields) -> Config:
    fields.refuse({"mlp_bias": (False,)})
    sizes = shape.from_hf(fields, DEFAULTS)
    layers, head_dim = sizes["num_hidden_layers"], sizes["head_dim"]
    pattern = fields.integer("sliding_window_pattern", "num_hidden_layers", SLIDING_PATTERN)
    full, sliding = _ropes_from_hf(fields, head_dim)
    return Config(
        family="gemma3",
        **sizes,
        norm_eps=fields.number("rms_norm_eps", "norm_eps", 1e-6),
        activation=shape.activation(fields, "gelu_pytorch_tanh", "hidden_activation", "hidden_act"),
        qk_norm=True,
        post_norms=True,
        layer_types=shape.layer_types(fields, layers) or _every(pattern, layers),
        sliding_window=fields.integer("sliding_window", "sliding_window", 4096),
        rope=full,
        rope_sliding=sliding,
        attention_scale=fields.number("query_pre_attn_scalar", "attention_scalar", 256.0) ** -0.5,
        embedding_scale=math.sqrt(sizes["hidden_size"]),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=True),
    )


def _ropes_from_hf(fields: Fields, dim: int) -> tuple[Rope, Rope]:
    """The rotary embeddings of full and of sliding layers; scaling is only for the full ones
    in files from before `rope_parameters`.
    """  # noqa: D205
    full_theta = fields.number("rope_theta", "rope_theta", GLOBAL_THETA)
    sliding_theta = fields.number("rope_local_base_freq", "rope_theta", LOCAL_THETA)
    parameters, scaling = fields.group("rope_parameters"), fields.group("rope_scaling")
    if parameters is None:
        full = (
            rope.plain(full_theta, dim) if scaling is None else rope.from_settings(scaling, dim, full_theta)
        )
        return full, rope.plain(sliding_theta, dim)
    if scaling is not None:
        raise fields.unsupported("rope_scaling", "rope_parameters is there too")
    for key in parameters.values.keys() - {"full_attention", "sliding_attention"}:
        raise parameters.unsupported(key, "Gemma 3 has settings for full_attention and sliding_attention")
    empty = Fields({}, source=parameters.source)
    full_settings = parameters.group("full_attention") or empty
    sliding_settings = parameters.group("sliding_attention") or empty
    positions = fields.get("max_position_embeddings")
    return (
        rope.from_settings(full_settings, dim, full_theta, positions),
        rope.from_settings(sliding_settings, dim, sliding_theta, positions),
    )


def from_gguf(
    fields: Fields, tensor_names: Container[str], rope_freqs: Sequence[float] | None, vocab_size: int
) -> Blueprint:
    """From GGUF metadata with architecture `gemma3`.

    GGUF says neither the pattern of layers, nor the local rotary base, nor the scale of attention,
    unless they are unusual: llama.cpp takes 6, 10,000 and `1 / sqrt(head_dim)`, except that the
    27B model (62 layers) scales by `1 / sqrt(hidden / heads)`. The norms already have their one added.
    """
    sizes = shape.from_gguf(fields, vocab_size)
    layers, head_dim = sizes["num_hidden_layers"], sizes["head_dim"]
    scalar = float(head_dim)
    if layers == LAYERS_OF_27B:
        scalar = sizes["hidden_size"] / sizes["num_attention_heads"]
    # Ollama's names for what llama.cpp calls rope.freq_base and rope.freq_base_swa.
    full_theta = fields.number("rope.global.freq_base", "rope_theta", GLOBAL_THETA)
    sliding_theta = fields.number("rope.local.freq_base", "rope_theta", LOCAL_THETA)
    config = Config(
        family="gemma3",
        **sizes,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", "norm_eps"),
        activation="gelu_tanh",
        qk_norm=True,
        post_norms=True,
        layer_types=_layer_types_from_gguf(fields, layers),
        sliding_window=fields.integer("attention.sliding_window", "sliding_window"),
        rope=rope.from_gguf(fields, head_dim, rope_freqs, default_theta=full_theta),
        rope_sliding=rope.plain(fields.number("rope.freq_base_swa", "rope_theta", sliding_theta), head_dim),
        attention_scale=scalar**-0.5,
        embedding_scale=math.sqrt(sizes["hidden_size"]),
        tie_word_embeddings="output.weight" not in tensor_names,
    )
    return blueprint(config, Layout())


def _layer_types_from_gguf(fields: Fields, layers: int) -> tuple[LayerType, ...]:
    """The pattern is given as "every n-th layer is full", as one flag a layer, or not at all."""
    key = "attention.sliding_window_pattern"
    value = fields.get(key)
    if value is None or isinstance(value, int):
        return _every(fields.integer(key, "num_hidden_layers", SLIDING_PATTERN), layers)
    flags = tuple(fields.items(key, layers) or ())
    fields.require(all(isinstance(flag, int) for flag in flags), key, f"a number or {layers} flags")
    return tuple("sliding" if flag else "full" for flag in flags)


def _every(pattern: int, layers: int) -> tuple[LayerType, ...]:
    return tuple("sliding" if (layer + 1) % pattern else "full" for layer in range(layers))
