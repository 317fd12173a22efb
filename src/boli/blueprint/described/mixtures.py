"""Decoders whose MLP is a mixture of experts, with attention as in Llama's relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boli.blueprint.config import Config, Experts, LayerType
from boli.blueprint.described import dense
from boli.blueprint.described.dense import NORMS, Family
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
from boli.blueprint.described.sizes import renamed
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint

_BLOCK: Final = "block_sparse_moe."
_W: Final = ("w1", "w3", "w2")  # how Mixtral and its heirs call gate, up and down
_ROUTER: Final = "ffn_gate_inp"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What one family has instead of an MLP.

    Attributes:
        family: Its attention and norms.
        lines: The lines of the mixture; of its shared expert too.
        names: This family's own names of standard fields.
        shared: Width of what every token goes through, by the fields; 0 for nothing.
        sparse: Whether a layer has experts, by the fields and its number.
    """

    family: Family
    lines: Lines
    names: Mapping[str, str]
    shared: Callable[[Fields], int] = lambda _: 0
    sparse: Callable[[Fields, int], bool] = lambda _, __: True


def _qwen_sparse(fields: Fields, layer: int) -> bool:
    """Every `decoder_sparse_step`-th layer, without those that `mlp_only_layers` names."""
    step = fields.integer("decoder_sparse_step", "num_hidden_layers", 1)
    return (layer + 1) % step == 0 and layer not in fields.layers("mlp_only_layers")


def _after_first(fields: Fields, layer: int) -> bool:
    return layer >= fields.integer("first_k_dense_replace", "layer_count", 0)


def _llama4_sparse(fields: Fields, layer: int) -> bool:
    return (layer + 1) % fields.integer("interleave_moe_layer_step", "num_hidden_layers", 1) == 0


_EXPERTS_OF_F: Final = {"num_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"}
_LINEAR_ROUTER: Final = linear("router", "mlp.gate", _ROUTER, "E d")
MIXTURES: Final[Mapping[str, Mixture]] = {
    "MixtralForCausalLM": Mixture(
        family=Family(name="mixtral", defaults={"num_key_value_heads": 8, "num_local_experts": 8,
                                                "num_experts_per_tok": 2}, window="always"),
        lines=(*linear("router", f"{_BLOCK}gate", _ROUTER, "E d"), *experts(_BLOCK, *_W)),
        names=_EXPERTS_OF_F,
    ),
    "PhimoeForCausalLM": Mixture(
        family=Family(name="phimoe", norm_bias=True, qkv_bias=("attention_bias", False),
                      o_bias=("attention_bias", False), window="always",
                      defaults={"num_local_experts": 16, "num_experts_per_tok": 2}),
        lines=(*linear("router", f"{_BLOCK}gate", _ROUTER, "E d"), *experts(_BLOCK, *_W)),
        names=_EXPERTS_OF_F,
    ),
    "Qwen2MoeForCausalLM": Mixture(
        family=Family(name="qwen2_moe", qkv_bias=("qkv_bias", True), window="qwen",
                      defaults={"num_experts": 60, "num_experts_per_tok": 4}),
        lines=(
            *_LINEAR_ROUTER,
            *experts("mlp."),
            *shared_expert("mlp.shared_expert."),
            *linear("shared_router", "mlp.shared_expert_gate", "ffn_gate_inp_shexp", "1 d"),
        ),
        names={},
        shared=lambda fields: fields.integer("shared_expert_intermediate_size", "intermediate_size"),
        sparse=_qwen_sparse,
    ),
    "Qwen3MoeForCausalLM": Mixture(
        family=Family(name="qwen3_moe", qk_norm="head", qkv_bias=("attention_bias", False),
                      o_bias=("attention_bias", False), window="qwen",
                      defaults={"num_experts": 128, "num_experts_per_tok": 8}),
        lines=(*_LINEAR_ROUTER, *experts("mlp.")),
        names={},
        sparse=_qwen_sparse,
    ),
    "OlmoeForCausalLM": Mixture(
        family=Family(name="olmoe", qk_norm="all", qkv_bias=("attention_bias", False),
                      o_bias=("attention_bias", False),
                      defaults={"num_experts": 64, "num_experts_per_tok": 8}),
        lines=(*_LINEAR_ROUTER, *experts("mlp.")),
        names={"moe_intermediate_size": "intermediate_size"},
    ),
    "Glm4MoeForCausalLM": Mixture(
        family=Family(name="glm4_moe", qkv_bias=("attention_bias", False),
                      defaults={"head_dim": 128, "num_experts_per_tok": 8}),
        lines=(
            *_LINEAR_ROUTER,
            ("router_bias", "mlp.gate.e_score_correction_bias", "exp_probs_b", "E"),
            *experts("mlp."),
            *shared_expert("mlp.shared_experts."),
        ),
        names={"num_experts": "n_routed_experts"},
        shared=lambda fields: fields.integer("moe_intermediate_size", "intermediate_size")
        * fields.integer("n_shared_experts", "layer_count", 1),
        sparse=_after_first,
    ),
    "GptOssForCausalLM": Mixture(
        family=Family(name="gpt_oss", qkv_bias=("attention_bias", True), o_bias=("attention_bias", True),
                      window=2, default_window=128,
                      defaults={"head_dim": 64, "num_experts_per_tok": 4}),
        lines=(
            *linear("router", "mlp.router", _ROUTER, "E d", bias=True),
            # Gate and up are interleaved in one matrix, and all of them lie transposed in the file.
            ("expert_gate_up", "mlp.experts.gate_up_proj", "ffn_gate_up_exps", "E 2m d"),
            ("expert_gate_up_bias", "mlp.experts.gate_up_proj_bias", "ffn_gate_up_exps", "E 2m"),
            ("expert_down", "mlp.experts.down_proj", "ffn_down_exps", "E d m"),
            ("expert_down_bias", "mlp.experts.down_proj_bias", "ffn_down_exps", "E d"),
        ),
        names=_EXPERTS_OF_F,
    ),
    "Llama4ForCausalLM": Mixture(
        family=Family(name="llama4", qkv_bias=("attention_bias", False), o_bias=("attention_bias", False),
                      defaults={"head_dim": 128, "num_experts_per_tok": 1}),
        lines=(
            *linear("router", "feed_forward.router", _ROUTER, "E d"),
            ("expert_gate_up", "feed_forward.experts.gate_up_proj", "ffn_gate_up_exps", "E 2m d"),
            ("expert_down", "feed_forward.experts.down_proj", "ffn_down_exps", "E d m"),
            *shared_expert("feed_forward.shared_expert."),
        ),
        names=_EXPERTS_OF_F | {"sliding_window": "attention_chunk_size"},
        shared=lambda fields: fields.integer("intermediate_size", "intermediate_size"),
        sparse=_llama4_sparse,
    ),
    "MiniMaxM2ForCausalLM": Mixture(
        family=Family(name="minimax_m2", qk_norm="all", defaults={"head_dim": 128}),
        lines=(
            *linear("router", f"{_BLOCK}gate", _ROUTER, "E d"),
            ("router_bias", f"{_BLOCK}e_score_correction_bias", "exp_probs_b", "E"),
            *experts(_BLOCK, *_W),
        ),
        names=_EXPERTS_OF_F,
    ),
}  # fmt: skip


def from_hf(fields: Fields, mixture: Mixture) -> Blueprint:
    """The blueprint of a decoder with experts."""
    family = mixture.family
    fields = renamed(fields, mixture.names, family.defaults)
    config = dense.config_of(fields, family)
    config = replace(config, experts=experts_of(fields, mixture, config.num_hidden_layers))
    if family.name == "llama4":
        config = _llama4(fields, config)
    before, between, after = NORMS[family.norms](family.norm_bias)
    attention = dense.attention_lines(fields, family)
    if family.name == "gpt_oss":
        attention = (*attention, ("attention_sinks", "self_attn.sinks", "attn_sinks", "H"))
    plain = gated_mlp(inside="feed_forward." if family.name == "llama4" else "mlp.")
    assert config.experts is not None, "just set"
    sparse = config.experts.layers

    def layer(i: int) -> Lines:
        return (*before, *attention, *between, *(mixture.lines if i in sparse else plain), *after)

    ahead = prediction(fields, config, layer(config.num_hidden_layers - 1), symbols_of(config))
    return decoder(
        config,
        layer,
        prediction=ahead,
        after=norm("final_norm", "norm", "output_norm", bias=family.norm_bias),
        head=linear("head", "lm_head", "output", "V d", bias=fields.flag("lm_head_bias", default=False)),
    )


def experts_of(fields: Fields, mixture: Mixture, layers: int) -> Experts:
    """The numbers of a mixture."""
    count = fields.integer("num_experts", "num_experts")
    chosen = fields.integer("num_experts_per_tok", "num_experts")
    fields.require(chosen <= count, "num_experts_per_tok", f"at most num_experts, which is {count}")
    return Experts(
        num_experts=count,
        num_experts_per_tok=chosen,
        moe_intermediate_size=fields.integer("moe_intermediate_size", "intermediate_size"),
        shared_intermediate_size=mixture.shared(fields),
        layers=frozenset(layer for layer in range(layers) if mixture.sparse(fields, layer)),
    )


def _llama4(fields: Fields, config: Config) -> Config:
    """Llama 4 attends within chunks, except in every fourth layer, which has no rotary embedding."""
    layers = config.num_hidden_layers
    every = fields.integer("no_rope_layer_interval", "num_hidden_layers", 4)
    rotated = fields.items("no_rope_layers", layers) or [(i + 1) % every for i in range(layers)]
    chunk = fields.integer("attention_chunk_size", "sliding_window", 8192)
    kinds: tuple[LayerType, ...] = tuple("chunked" if each else "full" for each in rotated)
    width = fields.integer("intermediate_size_mlp", "intermediate_size", config.intermediate_size)
    return replace(config, layer_types=kinds, sliding_window=chunk, intermediate_size=width)
