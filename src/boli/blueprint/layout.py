"""The weights of the families that share Llama's layer: RMS norms, separate q, k and v, a gated MLP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from boli.blueprint.config import Config
from boli.blueprint.weights import Blueprint, Role, Stored, Transform, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one file lays out a Llama-like model.

    Attributes:
        prefixes: What may stand before `layers.0.…` in a safetensors file, the canonical one first.
        heads: Names that the output matrix may have there.
        qkv_bias: q, k and v have biases.
        o_bias: So has the attention's output.
        mlp_bias: So have gate, up and down.
        safetensors_norm: `plus_one` where the file holds the norms' distance from one.
        gguf_rotated: `unpermute` where the file interleaves the rows of q and k.
    """

    prefixes: tuple[str, ...] = ("model.", "")
    heads: tuple[str, ...] = ("lm_head.weight",)
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    safetensors_norm: Transform = "none"
    gguf_rotated: Transform = "none"


def blueprint(config: Config, layout: Layout) -> Blueprint:
    """The blueprint of a Llama-like model: embedding, layers, final norm, head."""
    return Blueprint(config, tuple(_weights(config, layout)))


def _weights(config: Config, layout: Layout) -> Iterator[Weight]:
    def weight(
        role: Role,
        layer: int | None,
        name: str,
        gguf: str,
        *shape: int,
        transform: Transform = "none",
        gguf_transform: Transform = "none",
    ) -> Weight:
        inside = "" if layer is None else f"layers.{layer}."
        names = tuple(f"{prefix}{inside}{name}" for prefix in layout.prefixes)
        block = gguf if layer is None else f"blk.{layer}.{gguf}"
        return Weight(
            name=names[0],
            role=role,
            layer=layer,
            shape=shape,
            safetensors=Stored(names, transform),
            gguf=Stored((block,), gguf_transform),
        )

    def norm(role: Role, layer: int | None, name: str, gguf: str, size: int) -> Weight:
        return weight(
            role, layer, f"{name}.weight", f"{gguf}.weight", size, transform=layout.safetensors_norm
        )

    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    rotated = layout.gguf_rotated
    qkv: tuple[tuple[Role, Role, str, int, Transform], ...] = (
        ("q", "q_bias", "q", q_size, rotated),
        ("k", "k_bias", "k", kv_size, rotated),
        ("v", "v_bias", "v", kv_size, "none"),
    )
    mlp: tuple[tuple[Role, Role, str, int, int], ...] = (
        ("gate", "gate_bias", "gate", inner, hidden),
        ("up", "up_bias", "up", inner, hidden),
        ("down", "down_bias", "down", hidden, inner),
    )
    # One name, two meanings: before the MLP in Llama, behind the attention in Gemma.
    mlp_norm = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"

    embedding = weight(
        "embedding", None, "embed_tokens.weight", "token_embd.weight", config.vocab_size, hidden
    )
    yield embedding
    for i in range(config.num_hidden_layers):
        yield norm("attention_norm", i, "input_layernorm", "attn_norm", hidden)
        for role, bias, x, rows, transform in qkv:
            name, gguf = f"self_attn.{x}_proj", f"attn_{x}"
            yield weight(role, i, f"{name}.weight", f"{gguf}.weight", rows, hidden, gguf_transform=transform)
            if layout.qkv_bias:
                yield weight(bias, i, f"{name}.bias", f"{gguf}.bias", rows, gguf_transform=transform)
        if config.qk_norm:
            yield norm("q_norm", i, "self_attn.q_norm", "attn_q_norm", head_dim)
            yield norm("k_norm", i, "self_attn.k_norm", "attn_k_norm", head_dim)
        yield weight("o", i, "self_attn.o_proj.weight", "attn_output.weight", hidden, q_size)
        if layout.o_bias:
            yield weight("o_bias", i, "self_attn.o_proj.bias", "attn_output.bias", hidden)
        if config.post_norms:
            yield norm("post_attention_norm", i, "post_attention_layernorm", "post_attention_norm", hidden)
        yield norm("mlp_norm", i, mlp_norm, "ffn_norm", hidden)
        for role, bias, x, rows, columns in mlp:
            yield weight(role, i, f"mlp.{x}_proj.weight", f"ffn_{x}.weight", rows, columns)
            if layout.mlp_bias:
                yield weight(bias, i, f"mlp.{x}_proj.bias", f"ffn_{x}.bias", rows)
        if config.post_norms:
            yield norm("post_mlp_norm", i, "post_feedforward_layernorm", "post_ffw_norm", hidden)
    yield norm("final_norm", None, "norm", "output_norm", hidden)
    tied = config.tie_word_embeddings
    yield Weight(
        name=layout.heads[0],
        role="head",
        layer=None,
        shape=(config.vocab_size, hidden),
        safetensors=embedding.safetensors if tied else Stored(layout.heads),
        gguf=embedding.gguf if tied else Stored(("output.weight",)),
        tied_to=embedding.name if tied else None,
    )
