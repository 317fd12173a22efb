"""DeepSeek V2, V3, R1 and Kimi K2: latent attention, many small experts, modules that look ahead.

DeepSeek-AI 2024, https://arxiv.org/abs/2405.04434 (V2: MLA and shared experts) and
https://arxiv.org/abs/2412.19437 (V3: multi-token prediction).
"""

from __future__ import annotations

from boli.blueprint.config import Config, Experts, Mla
from boli.blueprint.described.lines import (
    Lines,
    decoder,
    experts,
    gated_mlp,
    linear,
    norm,
    shared_expert,
    symbols_of,
)
from boli.blueprint.described.prediction import prediction
from boli.blueprint.described.sizes import activation, alike, renamed, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint


def v2_from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `DeepseekV2ForCausalLM`."""
    return _from_hf(fields, "deepseek_v2", "greedy")


def v3_from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `DeepseekV3ForCausalLM`; Kimi K2's says so too."""
    return _from_hf(fields, "deepseek_v3", "noaux_tc")


def _from_hf(fields: Fields, family: str, method: str) -> Blueprint:
    names = {"num_experts": "n_routed_experts"}
    fields = renamed(fields, names, {"moe_layer_freq": 1, "first_k_dense_replace": 0})
    config = _config(fields, family)
    symbols, attention = _attention(fields, config)
    router: Lines = linear("router", "mlp.gate", "ffn_gate_inp", "E d")
    if fields.word("topk_method", method) == "noaux_tc":  # balanced by a bias, and not by a loss
        router += (("router_bias", "mlp.gate.e_score_correction_bias", "exp_probs_b", "E"),)
    mixture = (*router, *experts("mlp."), *(shared_expert("mlp.shared_experts.") if symbols["s"] else ()))
    assert config.experts is not None, "every configuration of this family has them"
    sparse = config.experts.layers

    def layer(i: int) -> Lines:
        return (
            *norm("attention_norm", "input_layernorm", "attn_norm"),
            *attention,
            *norm("mlp_norm", "post_attention_layernorm", "ffn_norm"),
            *(mixture if i in sparse else gated_mlp()),
        )

    ahead = prediction(fields, config, layer(config.num_hidden_layers - 1), symbols)
    return decoder(config, layer, symbols=symbols, prediction=ahead)


def _config(fields: Fields, family: str) -> Config:
    nope = fields.integer("qk_nope_head_dim", "head_dim")
    rotated = fields.integer("qk_rope_head_dim", "head_dim")
    fields = Fields({**fields.values, "head_dim": nope + rotated}, source=fields.source)
    shape = sizes(fields)
    layers = shape["num_hidden_layers"]
    width = fields.integer("moe_intermediate_size", "intermediate_size")
    shared = fields.integer("n_shared_experts", "layer_count", 0)
    count = fields.integer("num_experts", "num_experts")
    chosen = fields.integer("num_experts_per_tok", "num_experts")
    fields.require(chosen <= count, "num_experts_per_tok", f"at most n_routed_experts, which is {count}")
    first = fields.integer("first_k_dense_replace", "layer_count")
    every = fields.integer("moe_layer_freq", "num_hidden_layers")
    return Config(
        family=family,
        **shape,
        activation=activation(fields, "silu", "hidden_act"),
        layer_types=alike("mla", layers),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
        mla=Mla(
            q_lora_rank=fields.maybe_integer("q_lora_rank", "lora_rank"),
            kv_lora_rank=fields.integer("kv_lora_rank", "lora_rank"),
            qk_nope_head_dim=nope,
            qk_rope_head_dim=rotated,
            v_head_dim=fields.integer("v_head_dim", "head_dim"),
        ),
        experts=Experts(
            num_experts=count,
            num_experts_per_tok=chosen,
            moe_intermediate_size=width,
            shared_intermediate_size=shared * width,
            layers=frozenset(i for i in range(layers) if i >= first and i % every == 0),
        ),
        runnable=False,
    )


def _attention(fields: Fields, config: Config) -> tuple[dict[str, int], Lines]:
    """The lines of latent attention, and what their symbols mean."""
    mla = config.mla
    assert mla is not None, "set by _config"
    heads = config.num_attention_heads
    symbols = symbols_of(config) | {
        "r": mla.q_lora_rank or 0,
        "c": mla.kv_lora_rank,
        "c+rope": mla.kv_lora_rank + mla.qk_rope_head_dim,
        "q": heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim),
        "kv": heads * (mla.qk_nope_head_dim + mla.v_head_dim),
        "v": heads * mla.v_head_dim,
    }
    bias = fields.flag("attention_bias", default=False)
    if mla.q_lora_rank is None:
        lines = linear("q", "self_attn.q_proj", "attn_q", "q d")
    else:
        lines = (
            *linear("q_a", "self_attn.q_a_proj", "attn_q_a", "r d", bias=bias),
            *norm("q_a_norm", "self_attn.q_a_layernorm", "attn_q_a_norm", "r"),
            *linear("q_b", "self_attn.q_b_proj", "attn_q_b", "q r"),
        )
    lines += (
        *linear("kv_a", "self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", "c+rope d", bias=bias),
        *norm("kv_a_norm", "self_attn.kv_a_layernorm", "attn_kv_a_norm", "c"),
        *linear("kv_b", "self_attn.kv_b_proj", "attn_kv_b", "kv c"),
        *linear("o", "self_attn.o_proj", "attn_output", "d v", bias=bias),
    )
    return symbols, lines
