"""A list of tensors without a configuration: what can still be told of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from boli.blueprint.config import Config
from boli.blueprint.weights import Blueprint, Role, Stored, Weight
from boli.weigh.model import Model, Origin

if TYPE_CHECKING:
    from boli.formats.tensor_file import TensorInfo

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers?|h|blk|block|blocks)\.(\d+)\.")
# How names end, in safetensors and in GGUF; the first that fits.
_ENDINGS: Final[tuple[tuple[str, Role], ...]] = (
    (r"(embed_tokens|wte|word_embeddings|embed_in|token_embd|shared)\.weight", "embedding"),
    (r"(wpe|position_embeddings|position_embd|embed_positions)\.weight", "position_embedding"),
    (r"(lm_head|embed_out|^output)\.weight", "head"),
    (r"(model\.norm|ln_f|final_layernorm|final_layer_norm|^norm|output_norm)\.weight", "final_norm"),
    (r"(q_proj|attn_q|attention\.wq|SelfAttention\.q)\.weight", "q"),
    (r"(k_proj|attn_k|attention\.wk|SelfAttention\.k)\.weight", "k"),
    (r"(v_proj|attn_v|attention\.wv|SelfAttention\.v)\.weight", "v"),
    (r"(q_proj|attn_q)\.bias", "q_bias"),
    (r"(k_proj|attn_k)\.bias", "k_bias"),
    (r"(v_proj|attn_v)\.bias", "v_bias"),
    (r"(qkv_proj|c_attn|query_key_value|attn_qkv|Wqkv)\.weight", "qkv"),
    (r"(qkv_proj|c_attn|query_key_value|attn_qkv|Wqkv)\.bias", "qkv_bias"),
    (r"(q_norm|attn_q_norm)\.weight", "q_norm"),
    (r"(k_norm|attn_k_norm)\.weight", "k_norm"),
    (r"(o_proj|out_proj|attn\.c_proj|attn_output|attn_o|attention\.wo|self_attention\.dense)\.weight", "o"),
    (r"(o_proj|out_proj|attn\.c_proj|attn_output)\.bias", "o_bias"),
    (r"(input_layernorm|ln_1|attn_norm)\.weight", "attention_norm"),
    (r"(input_layernorm|ln_1|attn_norm)\.bias", "attention_norm_bias"),
    (r"(post_attention_norm)\.weight", "post_attention_norm"),
    (r"(pre_feedforward_layernorm|post_attention_layernorm|ln_2|ffn_norm)\.weight", "mlp_norm"),
    (r"(post_attention_layernorm|ln_2|ffn_norm)\.bias", "mlp_norm_bias"),
    (r"(post_feedforward_layernorm|post_ffw_norm)\.weight", "post_mlp_norm"),
    (r"(mlp\.gate|ffn_gate_inp|router|block_sparse_moe\.gate)\.weight", "router"),
    (r"(exp_probs_b\.bias|e_score_correction_bias)", "router_bias"),
    (r"ffn_gate_exps\.weight", "expert_gate"),
    (r"ffn_up_exps\.weight", "expert_up"),
    (r"ffn_down_exps\.weight", "expert_down"),
    (r"ffn_gate_up_exps\.weight", "expert_gate_up"),
    (r"experts\.\d+\.(gate_proj|w1)\.weight", "expert_gate"),
    (r"experts\.\d+\.(up_proj|w3)\.weight", "expert_up"),
    (r"experts\.\d+\.(down_proj|w2)\.weight", "expert_down"),
    (r"(ffn_gate_shexp|shared_experts?\.gate_proj)\.weight", "shared_gate"),
    (r"(ffn_up_shexp|shared_experts?\.up_proj)\.weight", "shared_up"),
    (r"(ffn_down_shexp|shared_experts?\.down_proj)\.weight", "shared_down"),
    (r"(gate_up_proj)\.weight", "gate_up"),
    (r"(gate_proj|ffn_gate|feed_forward\.w1)\.weight", "gate"),
    (r"(up_proj|c_fc|fc1|dense_h_to_4h|ffn_up|feed_forward\.w3)\.weight", "up"),
    (r"(down_proj|mlp\.c_proj|fc2|dense_4h_to_h|ffn_down|feed_forward\.w2)\.weight", "down"),
    (r"(up_proj|c_fc|fc1|dense_h_to_4h|ffn_up)\.bias", "up_bias"),
    (r"(down_proj|mlp\.c_proj|fc2|dense_4h_to_h|ffn_down)\.bias", "down_bias"),
    (r"attn_q_a(_proj)?\.weight|q_a_proj\.weight", "q_a"),
    (r"(attn_q_b|q_b_proj)\.weight", "q_b"),
    (r"(attn_kv_a_mqa|kv_a_proj_with_mqa)\.weight", "kv_a"),
    (r"(attn_kv_b|kv_b_proj|attn_k_b|attn_v_b)\.weight", "kv_b"),
)
_ROLES: Final = tuple((re.compile(rf"(?:.*[./])?(?:{ending})|{ending}"), role) for ending, role in _ENDINGS)


def role_of(name: str) -> Role:
    """What a tensor of this name is for, as far as names tell; "other" if they do not."""
    return next((role for ending, role in _ROLES if ending.fullmatch(name)), "other")


def weights_of(tensors: Sequence[TensorInfo]) -> tuple[Weight, ...]:
    """The tensors as weights."""
    weights = []
    for info in tensors:
        layer = _LAYER.search(info.name)
        number = int(layer[1]) if layer and len(layer[1]) < 6 else None
        stored = Stored((info.name,))
        weights.append(
            Weight(
                name=info.name,
                role=role_of(info.name),
                layer=number,
                shape=info.shape,
                safetensors=stored,
                gguf=stored,
            )
        )
    return tuple(weights)


def unknown_config(weights: Sequence[Weight]) -> Config:
    """A configuration that says only what shapes tell; what they do not is 0."""
    layers = {weight.layer for weight in weights if weight.layer is not None}
    embedding = next((weight.shape for weight in weights if weight.role == "embedding"), (0, 0))
    vocabulary, hidden = embedding if len(embedding) == 2 else (0, 0)
    return Config(
        family="unknown",
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=next((weight.shape[0] for weight in weights if weight.role == "up"), 0),
        num_hidden_layers=len(layers),
        num_attention_heads=0,
        num_key_value_heads=0,
        head_dim=0,
        max_position_embeddings=0,
        runnable=False,
    )


def from_tensors(tensors: Sequence[TensorInfo], name: str, source: Origin) -> Model:
    """A model of which only the tensors are known: parameters and bytes, and no more."""
    weights = weights_of(tensors)
    return Model(
        name=name,
        source=source,
        blueprint=Blueprint(unknown_config(weights), weights),
        facts=None,
        dtype="BF16",
        stored={info.name: info.format.name for info in tensors},
        not_runnable="there is no configuration",
        notes=(
            "there is no config.json, so that only the list of tensors can be told: not how many heads there "
            "are, hence neither the KV cache nor speed nor training",
            "roles are guessed from the tensors' names; whether the head is tied is unknown",
        ),
    )
