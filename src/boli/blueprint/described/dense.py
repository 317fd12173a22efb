"""Llama's relatives: the same layer with few differences. One row of `FAMILIES` is one family.

The families that boli runs are here too, for those of their members that it does not run, such as a Llama
with YaRN's rotary scaling; a test keeps both descriptions equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from boli.blueprint import gemma
from boli.blueprint.config import Config
from boli.blueprint.described.lines import Lines, decoder, gated_mlp, linear, norm, plain_mlp, separate_qkv
from boli.blueprint.described.sizes import Window, activation, layer_types, renamed, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint

# A bias or norm that is there, is not, or is there if this field says so (and what an absent field means).
Switch = bool | tuple[str, bool]
Norms = Literal["before", "around", "behind", "glm4", "parallel", "none"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one family of dense decoders has that another has not.

    Attributes:
        name: The family.
        defaults: Sizes that its configurations may leave out.
        norms: Before attention and MLP; also behind them ("around", "glm4" with other names); only
            behind; one for both, which then run in parallel; or none with weights.
        norm_bias: LayerNorms with biases and not RMS norms.
        qk_norm: Norms on queries and keys: of one head's size, of all heads, or one for each head.
        qkv: Separate matrices, or one.
        mlp: Gate, up and down; gate and up as one; or only up and down.
        tied: What an absent `tie_word_embeddings` means.
        window: As in `sizes.layer_types`.
        default_window: What an absent `sliding_window` means.
    """

    name: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    norms: Norms = "before"
    norm_bias: bool = False
    qk_norm: Literal["", "head", "all", "each"] = ""
    qkv: Literal["separate", "fused"] = "separate"
    qkv_bias: Switch = False
    o_bias: Switch = False
    mlp: Literal["gated", "gate_up", "plain"] = "gated"
    mlp_bias: Switch = False
    activation: str = "silu"
    tied: bool = False
    window: Window | int = "never"
    default_window: int | None = None


_ATTENTION_BIAS: Final = ("attention_bias", False)
FAMILIES: Final[Mapping[str, Family]] = {
    "LlamaForCausalLM": Family(
        name="llama", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS, mlp_bias=("mlp_bias", False)
    ),
    "MistralForCausalLM": Family(
        name="mistral", defaults={"num_key_value_heads": 8}, window="always", default_window=4096
    ),
    "Ministral3ForCausalLM": Family(name="ministral3", window="always"),
    "Qwen2ForCausalLM": Family(name="qwen2", qkv_bias=True, window="qwen"),
    "Qwen3ForCausalLM": Family(
        name="qwen3", defaults={"head_dim": 128}, qk_norm="head",
        qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS, window="qwen",
    ),
    "GemmaForCausalLM": Family(
        name="gemma", defaults={"head_dim": 256}, qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS,
        activation="gelu_pytorch_tanh", tied=True,
    ),
    "Gemma2ForCausalLM": Family(
        name="gemma2", defaults={"head_dim": 256}, norms="around",
        qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS,
        activation="gelu_pytorch_tanh", tied=True, window=2, default_window=4096,
    ),
    "Gemma3ForCausalLM": Family(
        name="gemma3", defaults=gemma.DEFAULTS, norms="around", qk_norm="head",
        qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS,
        activation="gelu_pytorch_tanh", tied=True, window=6, default_window=4096,
    ),
    "SmolLM3ForCausalLM": Family(
        name="smollm3", defaults={"num_key_value_heads": 4}, qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS,
        mlp_bias=("mlp_bias", False), tied=True, window="qwen",
    ),
    "GraniteForCausalLM": Family(
        name="granite", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS, mlp_bias=("mlp_bias", False)
    ),
    "OlmoForCausalLM": Family(
        name="olmo", norms="none", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS
    ),
    "Olmo2ForCausalLM": Family(
        name="olmo2", norms="behind", qk_norm="all", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS
    ),
    "Olmo3ForCausalLM": Family(
        name="olmo3", norms="behind", qk_norm="all", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS,
        window=4, default_window=4096,
    ),
    "Exaone4ForCausalLM": Family(name="exaone4", norms="behind", qk_norm="head", window=4),
    "SeedOssForCausalLM": Family(
        name="seed_oss", defaults={"head_dim": 128}, qkv_bias=("attention_bias", True),
        o_bias=("attention_out_bias", False), mlp_bias=("mlp_bias", False),
    ),
    "Ernie4_5ForCausalLM": Family(
        name="ernie4_5", defaults={"head_dim": 128}, qkv_bias=("use_bias", False),
        o_bias=("use_bias", False), mlp_bias=("use_bias", False), tied=True,
    ),
    "StableLmForCausalLM": Family(name="stablelm", norm_bias=True, qkv_bias=("use_qkv_bias", False)),
    "Starcoder2ForCausalLM": Family(
        name="starcoder2", norm_bias=True, qkv_bias=("use_bias", True), o_bias=("use_bias", True),
        mlp="plain", mlp_bias=("use_bias", True), activation="gelu_pytorch_tanh", tied=True, window="always",
    ),
    "CohereForCausalLM": Family(
        name="cohere", norms="parallel", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS, tied=True
    ),
    "Cohere2ForCausalLM": Family(
        name="cohere2", norms="parallel", qkv_bias=_ATTENTION_BIAS, o_bias=_ATTENTION_BIAS, tied=True,
        window=4, default_window=4096,
    ),
    "Phi3ForCausalLM": Family(name="phi3", qkv="fused", mlp="gate_up", window="always"),
    "GlmForCausalLM": Family(
        name="glm", defaults={"head_dim": 128}, qkv_bias=("attention_bias", True), mlp="gate_up"
    ),
    "Glm4ForCausalLM": Family(
        name="glm4", defaults={"head_dim": 128}, norms="glm4", qkv_bias=("attention_bias", False),
        mlp="gate_up",
    ),
}  # fmt: skip


def from_hf(fields: Fields, family: Family) -> Blueprint:
    """The blueprint of a dense decoder."""
    config = config_of(fields, family)
    fields = renamed(fields, {}, family.defaults)
    norms = norms_of(fields, family)
    attention = attention_lines(fields, family)
    mlp = _mlp(family, bias=switched(fields, family.mlp_bias))
    before, between, after = NORMS[norms](family.norm_bias)
    layer = (*before, *attention, *between, *mlp, *after)
    final = norm("final_norm", "norm", "output_norm", bias=family.norm_bias) if norms != "none" else ()
    return decoder(config, lambda _: layer, after=final)


def config_of(fields: Fields, family: Family) -> Config:
    """The sizes and features of a dense decoder."""
    fields = renamed(fields, {}, family.defaults)
    shape = sizes(fields)
    kinds, window = layer_types(fields, shape["num_hidden_layers"], family.window, family.default_window)
    norms = norms_of(fields, family)
    return Config(
        family=family.name,
        **shape,
        norm="layer" if family.norm_bias or norms in ("parallel", "none") else "rms",
        activation=activation(fields, family.activation, "hidden_activation", "hidden_act"),
        gated_mlp=family.mlp != "plain",
        qk_norm=bool(_qk_norm(fields, family)),
        post_norms=norms in ("around", "glm4"),
        parallel=norms == "parallel",
        layer_types=kinds,
        sliding_window=window,
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=family.tied),
        runnable=False,
    )


def switched(fields: Fields, switch: Switch) -> bool:
    """Whether something is there."""
    return switch if isinstance(switch, bool) else fields.flag(switch[0], default=switch[1])


def norms_of(fields: Fields, family: Family) -> Norms:
    """Where the norms are; StableLM's fields may say otherwise than its family."""
    parallel = family.name == "stablelm" and fields.flag("use_parallel_residual", default=False)
    return "parallel" if parallel else family.norms


def attention_lines(fields: Fields, family: Family) -> Lines:
    """The lines of attention without its norm."""
    bias = switched(fields, family.qkv_bias)
    lines = (
        separate_qkv(bias=bias)
        if family.qkv == "separate"
        else linear("qkv", "self_attn.qkv_proj", "attn_qkv", "qkv d", bias=bias)
    )
    qk_norm = _qk_norm(fields, family)
    if qk_norm:
        of_q, of_k = {"head": ("e", "e"), "all": ("q", "k"), "each": ("H e", "K e")}[qk_norm]
        lines += norm("q_norm", "self_attn.q_norm", "attn_q_norm", of_q)
        lines += norm("k_norm", "self_attn.k_norm", "attn_k_norm", of_k)
    return lines + linear("o", "self_attn.o_proj", "attn_output", "d q", bias=switched(fields, family.o_bias))


def _qk_norm(fields: Fields, family: Family) -> str:
    if family.name == "stablelm":
        fields.refuse({"qk_layernorm": (False,)})
    if family.name == "cohere":
        return "each" if fields.flag("use_qk_norm", default=False) else ""
    if family.name == "glm4_moe":
        return "head" if fields.flag("use_qk_norm", default=False) else ""
    return family.qk_norm


def _mlp(family: Family, *, bias: bool) -> Lines:
    if family.mlp == "plain":
        return plain_mlp("mlp.c_fc", "mlp.c_proj", bias=bias)
    if family.mlp == "gated":
        return gated_mlp(bias=bias)
    return (
        *linear("gate_up", "mlp.gate_up_proj", "ffn_up", "2f d", bias=bias),
        *linear("down", "mlp.down_proj", "ffn_down", "d f", bias=bias),
    )


def _before(bias: bool) -> tuple[Lines, Lines, Lines]:
    return (
        norm("attention_norm", "input_layernorm", "attn_norm", bias=bias),
        norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=bias),
        (),
    )


def _around(bias: bool) -> tuple[Lines, Lines, Lines]:
    return (
        norm("attention_norm", "input_layernorm", "attn_norm", bias=bias),
        (
            *norm("post_attention_norm", "post_attention_layernorm", "post_attention_norm", bias=bias),
            *norm("mlp_norm", "pre_feedforward_layernorm", "ffn_norm", bias=bias),
        ),
        norm("post_mlp_norm", "post_feedforward_layernorm", "post_ffw_norm", bias=bias),
    )


def _behind(bias: bool) -> tuple[Lines, Lines, Lines]:
    return (
        (),
        norm("post_attention_norm", "post_attention_layernorm", "post_attention_norm", bias=bias),
        norm("post_mlp_norm", "post_feedforward_layernorm", "post_ffw_norm", bias=bias),
    )


def _glm4(bias: bool) -> tuple[Lines, Lines, Lines]:
    return (
        norm("attention_norm", "input_layernorm", "attn_norm", bias=bias),
        (
            *norm("post_attention_norm", "post_self_attn_layernorm", "post_attention_norm", bias=bias),
            *norm("mlp_norm", "post_attention_layernorm", "ffn_norm", bias=bias),
        ),
        norm("post_mlp_norm", "post_mlp_layernorm", "post_ffw_norm", bias=bias),
    )


def _parallel(bias: bool) -> tuple[Lines, Lines, Lines]:
    return norm("attention_norm", "input_layernorm", "attn_norm", bias=bias), (), ()


def _none(bias: bool) -> tuple[Lines, Lines, Lines]:
    return (), (), ()


# Before attention, between attention and MLP, behind the MLP.
NORMS: Final = {
    "before": _before, "around": _around, "behind": _behind, "glm4": _glm4, "parallel": _parallel,
    "none": _none,
}  # fmt: skip
