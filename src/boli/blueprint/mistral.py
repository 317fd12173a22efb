"""Mistral: Llama with a sliding window. Jiang et al. 2023, https://arxiv.org/abs/2310.06825.

In GGUF, Mistral's architecture is `llama`, and the window is not stored.
"""

from __future__ import annotations

from boli.blueprint import rope, shape
from boli.blueprint.config import Config
from boli.blueprint.fields import Fields
from boli.blueprint.layout import Layout, blueprint
from boli.blueprint.weights import Blueprint


def from_hf(fields: Fields) -> Blueprint:
    """From `config.json` with architecture `MistralForCausalLM`.

    The window is `sliding_window`; null means none, and a file without the field means 4096.
    """
    defaults = {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    sizes = shape.from_hf(fields, defaults)
    window = fields.maybe_integer("sliding_window", "sliding_window")
    if "sliding_window" not in fields.values:
        window = 4096
    kinds = shape.layer_types(fields, sizes["num_hidden_layers"])
    if kinds is not None and set(kinds) != {"sliding" if window else "full"}:
        raise fields.unsupported("layer_types", "Mistral's layers are all alike; Ministral's are not")
    config = Config(
        family="mistral",
        **sizes,
        norm_eps=fields.number("rms_norm_eps", "norm_eps", 1e-6),
        activation=shape.activation(fields, "silu", "hidden_act"),
        sliding_window=window,
        rope=rope.from_hf(fields, sizes["head_dim"]),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
    )
    fields.refuse({"attention_bias": (False,), "mlp_bias": (False,)})
    return blueprint(config, Layout())
