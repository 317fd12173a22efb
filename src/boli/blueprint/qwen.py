"""Qwen2 and Qwen2.5 (biases on q, k and v) and Qwen3 (no biases, norms on q and k).

Yang et al. 2024, https://arxiv.org/abs/2412.15115; Yang et al. 2025, https://arxiv.org/abs/2505.09388.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from boli.blueprint import rope, shape
from boli.blueprint.config import Config, LayerType
from boli.blueprint.fields import Fields
from boli.blueprint.layout import Layout, blueprint
from boli.blueprint.weights import Blueprint


def qwen2_from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `Qwen2ForCausalLM`."""
    fields.refuse({"attention_bias": (True,), "mlp_bias": (False,)})
    config = _from_hf(fields, "qwen2", {"num_key_value_heads": 32, "max_position_embeddings": 32768})
    return blueprint(config, Layout(qkv_bias=True))


def qwen3_from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `Qwen3ForCausalLM`."""
    fields.refuse({"mlp_bias": (False,)})
    defaults = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128}
    bias = fields.flag("attention_bias", default=False)
    return blueprint(_from_hf(fields, "qwen3", defaults), Layout(qkv_bias=bias, o_bias=bias))


def qwen2_from_gguf(
    fields: Fields, tensor_names: Container[str], rope_freqs: Sequence[float] | None, vocab_size: int
) -> Blueprint:
    """From GGUF metadata with architecture `qwen2`."""
    config = _from_gguf(fields, "qwen2", tensor_names, rope_freqs, vocab_size)
    return blueprint(config, Layout(qkv_bias=True))


def qwen3_from_gguf(
    fields: Fields, tensor_names: Container[str], rope_freqs: Sequence[float] | None, vocab_size: int
) -> Blueprint:
    """From GGUF metadata with architecture `qwen3`."""
    config = _from_gguf(fields, "qwen3", tensor_names, rope_freqs, vocab_size)
    return blueprint(
        config,
        Layout(qkv_bias="blk.0.attn_q.bias" in tensor_names, o_bias="blk.0.attn_output.bias" in tensor_names),
    )


def _from_hf(fields: Fields, family: str, defaults: Mapping[str, object]) -> Config:
    sizes = shape.from_hf(fields, defaults)
    window = None
    if fields.flag("use_sliding_window", default=False):
        window = fields.integer("sliding_window", "sliding_window", 4096)
    return Config(
        family=family,
        **sizes,
        norm_eps=fields.number("rms_norm_eps", "norm_eps", 1e-6),
        activation=shape.activation(fields, "silu", "hidden_act"),
        qk_norm=family == "qwen3",
        layer_types=_layer_types(fields, sizes["num_hidden_layers"], window),
        sliding_window=window,
        rope=rope.from_hf(fields, sizes["head_dim"]),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
    )


def _layer_types(fields: Fields, layers: int, window: int | None) -> tuple[LayerType, ...]:
    """The first `max_window_layers` layers see everything, despite the field's name."""
    listed = shape.layer_types(fields, layers)
    if listed is not None:
        fields.require(
            window is not None or "sliding" not in listed, "layer_types", "no sliding layers without a window"
        )
        return listed
    full = layers if window is None else fields.integer("max_window_layers", "layer_count", 28)
    return tuple("full" if layer < full else "sliding" for layer in range(layers))


def _from_gguf(
    fields: Fields,
    family: str,
    tensor_names: Container[str],
    rope_freqs: Sequence[float] | None,
    vocab_size: int,
) -> Config:
    sizes = shape.from_gguf(fields, vocab_size)
    fields.refuse({"attention.sliding_window": (0,)})
    return Config(
        family=family,
        **sizes,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", "norm_eps"),
        qk_norm=family == "qwen3",
        rope=rope.from_gguf(fields, sizes["head_dim"], rope_freqs),
        tie_word_embeddings="output.weight" not in tensor_names,
    )
