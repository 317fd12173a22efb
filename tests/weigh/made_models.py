"""Models from a configuration of transformers, without a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boli.weigh.configured import from_config
from boli.weigh.model import Model

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
QWEN_05B = {
    "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151936, "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}  # fmt: skip
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


def gpt(hidden_size: int, layers: int, heads: int, vocab_size: int = 50257, positions: int = 2048) -> Model:
    """A model of GPT's shape."""
    return made({
        "architectures": ["GPT2LMHeadModel"], "vocab_size": vocab_size, "n_embd": hidden_size,
        "n_layer": layers, "n_head": heads, "n_positions": positions, "bos_token_id": 0, "eos_token_id": 0,
    })  # fmt: skip


def made(config: Mapping[str, Any]) -> Model:
    """The model that a configuration describes."""
    return from_config({"dtype": "bfloat16", **config}, "made", "config.json")
