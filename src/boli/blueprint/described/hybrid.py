"""Qwen3-Next: three layers of four have linear attention, whose state does not grow with the text.

Gated DeltaNet: Yang et al. 2024, https://arxiv.org/abs/2412.06464.
"""

from __future__ import annotations

from dataclasses import replace

from boli.blueprint.config import LayerType
from boli.blueprint.described import dense
from boli.blueprint.described.dense import Family
from boli.blueprint.described.lines import Lines, decoder, gated_mlp, linear, norm, symbols_of
from boli.blueprint.described.mixtures import MIXTURES, experts_of
from boli.blueprint.described.sizes import renamed
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint

_DEFAULTS = {
    "head_dim": 256, "num_experts": 512, "num_experts_per_tok": 10, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip


def from_hf(fields: Fields) -> Blueprint:
    """From architecture `Qwen3NextForCausalLM`."""
    fields = renamed(fields, {}, _DEFAULTS)
    mixture = MIXTURES["Qwen2MoeForCausalLM"]  # the same experts, behind another attention
    config = dense.config_of(fields, Family(name="qwen3_next", qk_norm="head"))
    layers = config.num_hidden_layers
    if fields.get("layer_types") is None:
        every = fields.integer("full_attention_interval", "num_hidden_layers", 4)
        kinds: tuple[LayerType, ...] = tuple("linear" if (i + 1) % every else "full" for i in range(layers))
        config = replace(config, layer_types=kinds)
    key_heads = fields.integer("linear_num_key_heads", "num_attention_heads")
    value_heads = fields.integer("linear_num_value_heads", "num_attention_heads")
    key_dim = fields.integer("linear_key_head_dim", "head_dim")
    value_dim = fields.integer("linear_value_head_dim", "head_dim")
    kernel = fields.integer("linear_conv_kernel_dim", "head_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    config = replace(
        config,
        experts=experts_of(fields, mixture, layers),
        # The state of each head, and the inputs that the convolution still needs.
        linear_state=value_heads * key_dim * value_dim + (2 * keys + values) * kernel,
    )
    assert config.experts is not None, "just set"
    sparse = config.experts.layers
    symbols = symbols_of(config) | {
        "2q": 2 * config.num_attention_heads * config.head_dim,
        "conv": 2 * keys + values,
        "kernel": kernel,
        "qkvz": 2 * keys + 2 * values,
        "ba": 2 * value_heads,
        "values": values,
        "heads": value_heads,
        "value": value_dim,
    }

    full = _full(bias=fields.flag("attention_bias", default=False))

    def layer(i: int) -> Lines:
        return (
            *norm("attention_norm", "input_layernorm", "attn_norm"),
            *(_LINEAR if config.layer_types[i] == "linear" else full),
            *norm("mlp_norm", "post_attention_layernorm", "post_attention_norm"),
            *(mixture.lines if i in sparse else gated_mlp()),
        )

    return decoder(config, layer, symbols=symbols)


_LINEAR: Lines = (
    *linear("linear_in", "linear_attn.in_proj_qkvz", "ssm_in", "qkvz d"),
    *linear("linear_gates", "linear_attn.in_proj_ba", "ssm_ba", "ba d"),
    ("conv", "linear_attn.conv1d.weight", "ssm_conv1d", "conv 1 kernel"),
    ("linear_dt_bias", "linear_attn.dt_bias", "ssm_dt", "heads"),
    ("linear_decay", "linear_attn.A_log", "ssm_a", "heads"),
    ("linear_norm", "linear_attn.norm.weight", "ssm_norm", "value"),
    *linear("linear_out", "linear_attn.out_proj", "ssm_out", "d values"),
)


def _full(*, bias: bool) -> Lines:
    """Queries come with a gate for the attention's output in the same matrix."""
    return (
        *linear("q", "self_attn.q_proj", "attn_q", "2q d", bias=bias),
        *linear("k", "self_attn.k_proj", "attn_k", "k d", bias=bias),
        *linear("v", "self_attn.v_proj", "attn_v", "k d", bias=bias),
        *norm("q_norm", "self_attn.q_norm", "attn_q_norm", "e"),
        *norm("k_norm", "self_attn.k_norm", "attn_k_norm", "e"),
        *linear("o", "self_attn.o_proj", "attn_output", "d q", bias=bias),
    )
