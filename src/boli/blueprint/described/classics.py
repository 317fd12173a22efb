"""Decoders from before Llama's layer became the custom: LayerNorm, biases, one matrix for q, k and v."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from boli.blueprint.config import Config
from boli.blueprint.described.lines import (
    Lines,
    decoder,
    linear,
    norm,
    plain_mlp,
    separate_qkv,
    symbols_of,
)
from boli.blueprint.described.sizes import activation, renamed, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint

_GPT_NAMES: Final = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions", "intermediate_size": "n_inner",
}  # fmt: skip


def _config(
    fields: Fields, family: str, *, act: str, key: str, parallel: bool = False, tied: bool = True
) -> Config:
    if fields.get("intermediate_size") is None:
        width = 4 * fields.integer("hidden_size", "hidden_size")
        fields = Fields({**fields.values, "intermediate_size": width}, source=fields.source)
    return Config(
        family=family,
        **sizes(fields),
        norm="layer",
        activation=activation(fields, act, key),
        gated_mlp=False,
        parallel=parallel,
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=tied),
        runnable=False,
    )


def gpt2(fields: Fields) -> Blueprint:
    """From architecture `GPT2LMHeadModel`, where `boli.blueprint.gpt2` refuses a feature."""
    fields = renamed(fields, _GPT_NAMES)
    config = _config(fields, "gpt2", act="gelu_new", key="activation_function")
    layer = (
        *norm("attention_norm", "ln_1", "attn_norm", bias=True),
        *linear("qkv", "attn.c_attn", "attn_qkv", "qkv d", bias=True),
        *linear("o", "attn.c_proj", "attn_output", "d q", bias=True),
        *norm("mlp_norm", "ln_2", "ffn_norm", bias=True),
        *plain_mlp("mlp.c_fc", "mlp.c_proj"),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        layers="h.{}.",
        before=(
            ("embedding", "wte.weight", "token_embd", "V d"),
            ("position_embedding", "wpe.weight", "position_embd", "P d"),
        ),
        after=norm("final_norm", "ln_f", "output_norm", bias=True),
    )


def gpt_j(fields: Fields) -> Blueprint:
    """GPT-J: attention and MLP read the same norm's output. Wang and Komatsuzaki 2021."""
    fields = renamed(fields, _GPT_NAMES)
    config = _config(fields, "gptj", act="gelu_new", key="activation_function", parallel=True, tied=False)
    layer = (
        *norm("attention_norm", "ln_1", "attn_norm", bias=True),
        *separate_qkv(inside="attn."),
        *linear("o", "attn.out_proj", "attn_output", "d q"),
        *plain_mlp("mlp.fc_in", "mlp.fc_out"),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        layers="h.{}.",
        before=(("embedding", "wte.weight", "token_embd", "V d"),),
        after=norm("final_norm", "ln_f", "output_norm", bias=True),
        head=linear("head", "lm_head", "output", "V d", bias=True),
    )


def gpt_neox(fields: Fields) -> Blueprint:
    """GPT-NeoX-20B and Pythia. Black et al. 2022, https://arxiv.org/abs/2204.06745."""
    parallel = fields.flag("use_parallel_residual", default=True)
    config = _config(fields, "gpt_neox", act="gelu", key="hidden_act", parallel=parallel, tied=False)
    bias = fields.flag("attention_bias", default=True)
    layer = (
        *norm("attention_norm", "input_layernorm", "attn_norm", bias=True),
        *linear("qkv", "attention.query_key_value", "attn_qkv", "qkv d", bias=bias),
        *linear("o", "attention.dense", "attn_output", "d q", bias=bias),
        *norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=True),
        *plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="gpt_neox.",
        before=(("embedding", "embed_in.weight", "token_embd", "V d"),),
        after=norm("final_norm", "final_layer_norm", "output_norm", bias=True),
        head=linear("head", "embed_out", "output", "V d"),
    )


def phi(fields: Fields) -> Blueprint:
    """Phi-1, Phi-1.5 and Phi-2. Gunasekar et al. 2023, https://arxiv.org/abs/2306.11644."""
    fields.refuse({"qk_layernorm": (False,)})
    config = _config(fields, "phi", act="gelu_new", key="hidden_act", parallel=True, tied=False)
    layer = (
        *norm("attention_norm", "input_layernorm", "attn_norm", bias=True),
        *separate_qkv(bias=True),
        *linear("o", "self_attn.dense", "attn_output", "d q", bias=True),
        *plain_mlp("mlp.fc1", "mlp.fc2"),
    )
    return decoder(
        config,
        lambda _: layer,
        after=norm("final_norm", "final_layernorm", "output_norm", bias=True),
        head=linear("head", "lm_head", "output", "V d", bias=True),
    )


def opt(fields: Fields) -> Blueprint:
    """OPT. Zhang et al. 2022, https://arxiv.org/abs/2205.01068. Positions are counted from 2."""
    fields = renamed(fields, {"intermediate_size": "ffn_dim"})
    config = _config(fields, "opt", act="relu", key="activation_function")
    narrow = fields.integer("word_embed_proj_dim", "hidden_size", config.hidden_size)
    bias = fields.flag("enable_bias", default=True)
    symbols = symbols_of(config) | {"P": config.max_position_embeddings + 2, "w": narrow}
    layer = (
        *separate_qkv(bias=bias),
        *linear("o", "self_attn.out_proj", "attn_output", "d q", bias=bias),
        *norm("attention_norm", "self_attn_layer_norm", "attn_norm", bias=True),
        *plain_mlp("fc1", "fc2", bias=bias),
        *norm("mlp_norm", "final_layer_norm", "ffn_norm", bias=True),
    )
    before: Lines = (
        ("embedding", "embed_tokens.weight", "token_embd", "V w"),
        ("position_embedding", "embed_positions.weight", "position_embd", "P d"),
    )
    after: Lines = ()
    if narrow != config.hidden_size:  # only the model of 350M
        before += linear("embedding_projection", "project_in", "", "d w")
        after += linear("head_projection", "project_out", "", "w d")
    if fields.flag("do_layer_norm_before", default=True):
        after += norm("final_norm", "final_layer_norm", "output_norm", bias=True)
    return decoder(
        config,
        lambda _: layer,
        symbols=symbols,
        prefix="model.decoder.",
        before=before,
        after=after,
        head=(("head", "lm_head.weight", "output", "V w"),),
    )


def falcon(fields: Fields) -> Blueprint:
    """Falcon. Almazrouei et al. 2023, https://arxiv.org/abs/2311.16867.

    One head of keys and values for all of queries (7B), or a few (40B, 180B, 11B).
    """
    names = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    fields = renamed(fields, names | {"intermediate_size": "ffn_hidden_size"})
    newer = fields.flag("new_decoder_architecture", default=False)
    heads = fields.integer("num_attention_heads", "num_attention_heads")
    kv = 1 if fields.flag("multi_query", default=True) else heads
    if newer:
        kv = fields.integer("num_kv_heads", "num_key_value_heads", heads)
    fields = Fields({**fields.values, "num_key_value_heads": kv}, source=fields.source)
    parallel = newer or fields.flag("parallel_attn", default=True)
    config = _config(fields, "falcon", act="gelu", key="activation", parallel=parallel)
    bias = fields.flag("bias", default=False)
    two = newer and fields.integer("num_ln_in_parallel_attn", "layer_count", 2) == 2
    norms: Lines = norm("attention_norm", "ln_attn" if two else "input_layernorm", "attn_norm", bias=True)
    if two:
        norms += norm("mlp_norm", "ln_mlp", "attn_norm_2", bias=True)
    elif not parallel:
        norms += norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=True)
    layer = (
        *norms,
        *linear("qkv", "self_attention.query_key_value", "attn_qkv", "qkv d", bias=bias),
        *linear("o", "self_attention.dense", "attn_output", "d q", bias=bias),
        *plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", bias=bias),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        layers="h.{}.",
        before=(("embedding", "word_embeddings.weight", "token_embd", "V d"),),
        after=norm("final_norm", "ln_f", "output_norm", bias=True),
    )


def bloom(fields: Fields) -> Blueprint:
    """BLOOM. Scao et al. 2022, https://arxiv.org/abs/2211.05100."""
    names = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    names |= {"max_position_embeddings": "seq_length"}
    if fields.get("hidden_size") is None:
        names["hidden_size"] = "n_embed"
    config = _config(renamed(fields, names), "bloom", act="gelu_new", key="hidden_act")
    layer = (
        *norm("attention_norm", "input_layernorm", "attn_norm", bias=True),
        *linear("qkv", "self_attention.query_key_value", "attn_qkv", "qkv d", bias=True),
        *linear("o", "self_attention.dense", "attn_output", "d q", bias=True),
        *norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=True),
        *plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        layers="h.{}.",
        before=(
            ("embedding", "word_embeddings.weight", "token_embd", "V d"),
            *norm("embedding_norm", "word_embeddings_layernorm", "token_embd_norm", bias=True),
        ),
        after=norm("final_norm", "ln_f", "output_norm", bias=True),
    )


def mpt(fields: Fields) -> Blueprint:
    """MPT: no biases at all. MosaicML 2023."""
    names = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    fields = renamed(fields, names | {"max_position_embeddings": "max_seq_len"})
    width = fields.integer("expansion_ratio", "layer_count", 4) * fields.integer("hidden_size", "hidden_size")
    fields = Fields({**fields.values, "intermediate_size": width}, source=fields.source)
    config = _config(fields, "mpt", act="gelu", key="hidden_act")
    layer = (
        *norm("attention_norm", "norm_1", "attn_norm"),
        *linear("qkv", "attn.Wqkv", "attn_qkv", "qkv d"),
        *linear("o", "attn.out_proj", "attn_output", "d q"),
        *norm("mlp_norm", "norm_2", "ffn_norm"),
        *plain_mlp("ffn.up_proj", "ffn.down_proj", bias=False),
    )
    return decoder(
        config,
        lambda _: layer,
        prefix="transformer.",
        layers="blocks.{}.",
        before=(("embedding", "wte.weight", "token_embd", "V d"),),
        after=norm("final_norm", "norm_f", "output_norm"),
    )


CLASSICS: Final[Mapping[str, Callable[[Fields], Blueprint]]] = {
    "GPT2LMHeadModel": gpt2,
    "GPTJForCausalLM": gpt_j,
    "GPTNeoXForCausalLM": gpt_neox,
    "PhiForCausalLM": phi,
    "OPTForCausalLM": opt,
    "FalconForCausalLM": falcon,
    "BloomForCausalLM": bloom,
    "MptForCausalLM": mpt,
}
