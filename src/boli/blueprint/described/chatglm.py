"""ChatGLM 1 to 3 and GLM-4 in the layout of their own code; GLM-4 in transformers' is in `dense`.

Zeng et al. 2022, https://arxiv.org/abs/2210.02414; Team GLM 2024, https://arxiv.org/abs/2406.12793.
"""

from __future__ import annotations

from boli.blueprint.config import Config
from boli.blueprint.described.lines import decoder, linear, norm, plain_mlp
from boli.blueprint.described.sizes import renamed, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint


def from_hf(fields: Fields) -> Blueprint:
    """From architecture `ChatGLMModel`; the first version has `inner_hidden_size`, later ones do not."""
    first = fields.get("inner_hidden_size") is not None or fields.get("position_encoding_2d") is not None
    return _first(fields) if first else _later(fields)


def _first(fields: Fields) -> Blueprint:
    names = {"num_hidden_layers": "num_layers", "intermediate_size": "inner_hidden_size"}
    fields = renamed(fields, names | {"max_position_embeddings": "max_sequence_length"})
    config = Config(
        family="chatglm",
        **sizes(fields),
        norm="layer",
        activation="gelu_tanh",
        gated_mlp=False,
        tie_word_embeddings=True,
        runnable=False,
    )
    layer = (
        *norm("attention_norm", "input_layernorm", "attn_norm", bias=True),
        *linear("qkv", "attention.query_key_value", "attn_qkv", "qkv d", bias=True),
        *linear("o", "attention.dense", "attn_output", "d q", bias=True),
        *norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=True),
        *plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        before=(("embedding", "word_embeddings.weight", "token_embd", "V d"),),
        after=norm("final_norm", "final_layernorm", "output_norm", bias=True),
    )


def _later(fields: Fields) -> Blueprint:
    names = {
        "vocab_size": "padded_vocab_size", "num_hidden_layers": "num_layers",
        "intermediate_size": "ffn_hidden_size", "max_position_embeddings": "seq_length",
        "head_dim": "kv_channels",
    }  # fmt: skip
    if fields.flag("multi_query_attention", default=False):
        names["num_key_value_heads"] = "multi_query_group_num"
    fields = renamed(fields, names)
    rms = fields.flag("rmsnorm", default=True)
    config = Config(
        family="chatglm",
        **sizes(fields),
        norm="rms" if rms else "layer",
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
        runnable=False,
    )
    bias = fields.flag("add_bias_linear", default=False)
    qkv_bias = bias or fields.flag("add_qkv_bias", default=False)
    layer = (
        *norm("attention_norm", "input_layernorm", "attn_norm", bias=not rms),
        *linear("qkv", "self_attention.query_key_value", "attn_qkv", "qkv d", bias=qkv_bias),
        *linear("o", "self_attention.dense", "attn_output", "d q", bias=bias),
        *norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=not rms),
        *linear("gate_up", "mlp.dense_h_to_4h", "ffn_up", "2f d", bias=bias),
        *linear("down", "mlp.dense_4h_to_h", "ffn_down", "d f", bias=bias),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        layers="encoder.layers.{}.",
        before=(("embedding", "embedding.word_embeddings.weight", "token_embd", "V d"),),
        after=norm("final_norm", "encoder.final_layernorm", "output_norm", bias=not rms),
        head=linear("head", "transformer.output_layer", "output", "V d"),
    )
