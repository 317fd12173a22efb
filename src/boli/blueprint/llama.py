"""Llama 1, 2, 3, 3.1 and 3.2, SmolLM2, and all that are built like them.

Touvron et al. 2023, https://arxiv.org/abs/2302.13971; Grattafiori et al. 2024,
https://arxiv.org/abs/2407.21783.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from boli.blueprint import rope, shape
from boli.blueprint.config import Config
from boli.blueprint.fields import Fields
from boli.blueprint.layout import Layout, blueprint
from boli.blueprint.weights import Blueprint


def from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `LlamaForCausalLM`."""
    sizes = shape.from_hf(fields, {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2})
    config = Config(
        family="llama",
        **sizes,
        norm_eps=fields.number("rms_norm_eps", "norm_eps", 1e-6),
        activation=shape.activation(fields, "silu", "hidden_act"),
        rope=rope.from_hf(fields, sizes["head_dim"]),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
    )
    bias = fields.flag("attention_bias", default=False)
    return blueprint(
        config, Layout(qkv_bias=bias, o_bias=bias, mlp_bias=fields.flag("mlp_bias", default=False))
    )


def from_gguf(
    fields: Fields, tensor_names: Container[str], rope_freqs: Sequence[float] | None, vocab_size: int
) -> Blueprint:
    """From GGUF metadata with architecture `llama`; Mistral's files say so too.

    Their converter interleaves the rows of q and k within each head, because llama.cpp rotates
    neighbours: `(0, 1), (2, 3), …`.
    """
    sizes = shape.from_gguf(fields, vocab_size)
    fields.refuse({"attention.sliding_window_pattern": ()})
    config = Config(
        family="llama",
        **sizes,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", "norm_eps"),
        sliding_window=fields.maybe_integer("attention.sliding_window", "sliding_window"),
        rope=rope.from_gguf(fields, sizes["head_dim"], rope_freqs),
        tie_word_embeddings="output.weight" not in tensor_names,
    )
    return blueprint(
        config,
        Layout(
            qkv_bias="blk.0.attn_q.bias" in tensor_names,
            o_bias="blk.0.attn_output.bias" in tensor_names,
            mlp_bias="blk.0.ffn_up.bias" in tensor_names,
            gguf_rotated="unpermute",
        ),
    )
