"""GPT-2: learned positions, LayerNorm, biases everywhere, one matrix for q, k and v, a tied head.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from boli.blueprint import shape
from boli.blueprint.config import Config
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint, Role, Stored, Transform, Weight
from boli.errors import UnsupportedModel

# How this family's config.json calls the sizes.
NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}


def from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `GPT2LMHeadModel`."""
    fields.refuse({"scale_attn_by_inverse_layer_idx": (False,)})
    hidden = fields.integer("n_embd", "hidden_size", 768)
    renamed = {name: fields.get(key) for name, key in NAMES.items() if fields.get(key) is not None}
    defaults: dict[str, object] = {
        "vocab_size": 50257,
        "hidden_size": hidden,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
        "intermediate_size": 4 * hidden,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }
    sizes = shape.from_hf(Fields({**fields.values, **renamed}, source=fields.source), defaults)
    scaled = fields.flag("scale_attn_weights", default=True)
    return _blueprint(
        Config(
            family="gpt2",
            **sizes,
            norm="layer",
            norm_eps=fields.number("layer_norm_epsilon", "norm_eps", 1e-5),
            activation=shape.activation(fields, "gelu_new", "activation_function"),
            gated_mlp=False,
            attention_scale=sizes["head_dim"] ** -0.5 if scaled else 1.0,
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=True),
        )
    )


def from_gguf(
    fields: Fields, tensor_names: Container[str], rope_freqs: Sequence[float] | None, vocab_size: int
) -> Blueprint:
    """From GGUF metadata with architecture `gpt2`. Its matrices are not transposed there."""
    if rope_freqs is not None:
        raise UnsupportedModel(f"{fields.source}: boli does not run GPT-2 with rope_freqs.weight")
    return _blueprint(
        Config(
            family="gpt2",
            **shape.from_gguf(fields, vocab_size),
            norm="layer",
            norm_eps=fields.number("attention.layer_norm_epsilon", "norm_eps"),
            activation="gelu_tanh",
            gated_mlp=False,
            tie_word_embeddings="output.weight" not in tensor_names,
        )
    )


def _blueprint(config: Config) -> Blueprint:
    return Blueprint(config, tuple(_weights(config)))


def _weights(config: Config) -> Iterator[Weight]:
    def weight(role: Role, layer: int | None, name: str, gguf: str, *shape: int) -> Weight:
        # The first published file has no "transformer." in front.
        inside = name if layer is None else f"h.{layer}.{name}"
        conv1d = layer is not None and len(shape) == 2
        transform: Transform = "transpose" if conv1d else "none"
        return Weight(
            name=f"transformer.{inside}",
            role=role,
            layer=layer,
            shape=shape,
            safetensors=Stored((f"transformer.{inside}", inside), transform),
            gguf=Stored((gguf if layer is None else f"blk.{layer}.{gguf}",)),
        )

    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    attended = config.num_attention_heads * config.head_dim
    embedding = weight("embedding", None, "wte.weight", "token_embd.weight", config.vocab_size, hidden)
    yield embedding
    yield weight(
        "position_embedding",
        None,
        "wpe.weight",
        "position_embd.weight",
        config.max_position_embeddings,
        hidden,
    )
    for i in range(config.num_hidden_layers):
        yield weight("attention_norm", i, "ln_1.weight", "attn_norm.weight", hidden)
        yield weight("attention_norm_bias", i, "ln_1.bias", "attn_norm.bias", hidden)
        yield weight("qkv", i, "attn.c_attn.weight", "attn_qkv.weight", qkv, hidden)
        yield weight("qkv_bias", i, "attn.c_attn.bias", "attn_qkv.bias", qkv)
        yield weight("o", i, "attn.c_proj.weight", "attn_output.weight", hidden, attended)
        yield weight("o_bias", i, "attn.c_proj.bias", "attn_output.bias", hidden)
        yield weight("mlp_norm", i, "ln_2.weight", "ffn_norm.weight", hidden)
        yield weight("mlp_norm_bias", i, "ln_2.bias", "ffn_norm.bias", hidden)
        yield weight("up", i, "mlp.c_fc.weight", "ffn_up.weight", inner, hidden)
        yield weight("up_bias", i, "mlp.c_fc.bias", "ffn_up.bias", inner)
        yield weight("down", i, "mlp.c_proj.weight", "ffn_down.weight", hidden, inner)
        yield weight("down_bias", i, "mlp.c_proj.bias", "ffn_down.bias", hidden)
    yield weight("final_norm", None, "ln_f.weight", "output_norm.weight", hidden)
    yield weight("final_norm_bias", None, "ln_f.bias", "output_norm.bias", hidden)
    tied = config.tie_word_embeddings
    yield Weight(
        name="lm_head.weight",
        role="head",
        layer=None,
        shape=(config.vocab_size, hidden),
        safetensors=embedding.safetensors if tied else Stored(("lm_head.weight",)),
        gguf=embedding.gguf if tied else Stored(("output.weight",)),
        tied_to=embedding.name if tied else None,
    )
