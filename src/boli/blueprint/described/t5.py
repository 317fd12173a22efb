"""T5 and its kin: an encoder and a decoder. Raffel et al. 2019, https://arxiv.org/abs/1910.10683.

Attention knows how far apart two positions are by a small table, which each stack's first layer holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from boli.blueprint.config import Config
from boli.blueprint.described.lines import Lines, linear, norm, symbols_of, tied_to, weights
from boli.blueprint.described.sizes import activation, alike, renamed, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint, Weight

_NAMES = {
    "hidden_size": "d_model", "intermediate_size": "d_ff", "num_attention_heads": "num_heads",
    "head_dim": "d_kv", "max_position_embeddings": "n_positions",
}  # fmt: skip


def from_hf(fields: Fields) -> Blueprint:
    """From architecture `T5ForConditionalGeneration`, `MT5…`; layers of the encoder are counted first."""
    encoder = fields.integer("num_layers", "num_hidden_layers")
    decoder = fields.integer("num_decoder_layers", "num_hidden_layers", encoder)
    fields = renamed(fields, {**_NAMES}, {"max_position_embeddings": 512})
    kind = fields.word("feed_forward_proj", "relu")
    gated = kind.startswith("gated-")
    word = kind.removeprefix("gated-")
    values = {**fields.values, "num_hidden_layers": encoder + decoder, "hidden_act": word}
    fields = Fields(values, source=fields.source)
    config = Config(
        family=fields.word("model_type", "t5"),
        **sizes(fields),
        activation=activation(fields, "relu", "hidden_act"),
        gated_mlp=gated,
        layer_types=alike("bidirectional", encoder) + alike("full", decoder),
        layout="encoder-decoder",
        num_encoder_layers=encoder,
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=True),
        runnable=False,
    )
    buckets = fields.integer("relative_attention_num_buckets", "layer_count", 32)
    return Blueprint(config, tuple(_weights(config, buckets)))


def _weights(config: Config, buckets: int) -> Iterator[Weight]:
    symbols = symbols_of(config) | {"buckets": buckets}
    (shared,) = weights((("embedding", "shared.weight", "token_embd", "V d"),), symbols)
    yield shared
    encoder = config.num_encoder_layers
    for i in range(encoder):
        lines = (*_self_attention(first=i == 0), *_mlp("layer.1.", gated=config.gated_mlp))
        yield from weights(lines, symbols, f"encoder.block.{i}.", i, f"enc.blk.{i}.")
    yield from weights(norm("encoder_norm", "encoder.final_layer_norm", "enc.output_norm"), symbols)
    for i in range(config.num_hidden_layers - encoder):
        lines = (*_self_attention(first=i == 0), *_CROSS, *_mlp("layer.2.", gated=config.gated_mlp))
        yield from weights(lines, symbols, f"decoder.block.{i}.", encoder + i, f"dec.blk.{i}.")
    yield from weights(norm("final_norm", "decoder.final_layer_norm", "dec.output_norm"), symbols)
    (head,) = weights((("head", "lm_head.weight", "output", "V d"),), symbols)
    yield tied_to(head, shared) if config.tie_word_embeddings else head


def _self_attention(*, first: bool) -> Lines:
    lines: Lines = (
        *norm("attention_norm", "layer.0.layer_norm", "attn_norm"),
        ("q", "layer.0.SelfAttention.q.weight", "attn_q", "q d"),
        ("k", "layer.0.SelfAttention.k.weight", "attn_k", "k d"),
        ("v", "layer.0.SelfAttention.v.weight", "attn_v", "k d"),
        ("o", "layer.0.SelfAttention.o.weight", "attn_o", "d q"),
    )
    table = "layer.0.SelfAttention.relative_attention_bias"
    return lines + linear("relative_position_bias", table, "attn_rel_b", "buckets H") if first else lines


_CROSS: Lines = (
    *norm("cross_norm", "layer.1.layer_norm", "cross_attn_norm"),
    ("cross_q", "layer.1.EncDecAttention.q.weight", "cross_attn_q", "q d"),
    ("cross_k", "layer.1.EncDecAttention.k.weight", "cross_attn_k", "k d"),
    ("cross_v", "layer.1.EncDecAttention.v.weight", "cross_attn_v", "k d"),
    ("cross_o", "layer.1.EncDecAttention.o.weight", "cross_attn_o", "d q"),
)


def _mlp(place: str, *, gated: bool) -> Lines:
    inside = f"{place}DenseReluDense."
    first = (
        (("gate", f"{inside}wi_0.weight", "ffn_gate", "f d"), ("up", f"{inside}wi_1.weight", "ffn_up", "f d"))
        if gated
        else linear("up", f"{inside}wi", "ffn_up", "f d")
    )
    return (
        *norm("mlp_norm", f"{place}layer_norm", "ffn_norm"),
        *first,
        *linear("down", f"{inside}wo", "ffn_down", "d f"),
    )
