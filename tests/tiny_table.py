"""Which tiny models there are: the settings of each, for `tiny_models` to make."""

from __future__ import annotations

import dataclasses
from typing import Any

VOCAB = 300
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A tiny model: its transformers configuration class and what to set in it."""

    name: str
    kind: str  # prefix of the classes in transformers
    settings: dict[str, Any]
    gguf_architecture: str | None  # None: GGUF cannot say all that the model is
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def _tiny(name: str, kind: str, gguf_architecture: str | None, **settings: Any) -> Tiny:
    return Tiny(name, kind, {**COMMON, **settings}, gguf_architecture)


def _rope(theta: float = 10000.0, **scaling: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default", **scaling}


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

TINY: dict[str, Tiny] = {
    tiny.name: tiny
    for tiny in (
        # grouped-query, multi-query and plain multi-head attention; tied and untied heads
        _tiny("llama", "Llama", "llama", rope_parameters=_rope()),
        _tiny("llama-mha-tied", "Llama", "llama", num_key_value_heads=6, tie_word_embeddings=True),
        _tiny("llama-mqa", "Llama", "llama", num_attention_heads=3, num_key_value_heads=1),
        _tiny("llama-bias", "Llama", "llama", attention_bias=True, mlp_bias=True),
        _tiny("llama-linear", "Llama", "llama", rope_parameters=_rope(rope_type="linear", factor=4.0)),
        _tiny("llama31", "Llama", "llama", rope_parameters=_rope(500000.0, **LLAMA3_SCALING)),
        _tiny("mistral", "Mistral", "llama", sliding_window=8, head_dim=32),
        _tiny("qwen2", "Qwen2", "qwen2", tie_word_embeddings=True, rope_parameters=_rope(1000000.0)),
        _tiny(
            "qwen2-window",
            "Qwen2",
            None,
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
        ),
        _tiny("qwen3", "Qwen3", "qwen3", head_dim=32, rope_parameters=_rope(1000000.0)),
        _tiny(
            "gemma3",
            "Gemma3",
            "gemma3",
            num_hidden_layers=7,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=8,
            rope_parameters={
                "full_attention": _rope(1000000.0),
                "sliding_attention": _rope(10000.0),
            },
        ),
        _tiny(
            "gemma3-scaled",
            "Gemma3",
            "gemma3",
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=8,
            rope_parameters={
                "full_attention": _rope(1000000.0, rope_type="linear", factor=8.0),
                "sliding_attention": _rope(10000.0),
            },
        ),
        _tiny("gpt2", "GPT2", "gpt2", n_inner=172),
    )
}

# Rows of 32 and of 256 numbers, so that every block format of GGUF fits all matrices.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "head_dim": 32}


def wide(name: str) -> Tiny:
    """The same family with sizes that fit the blocks of quantized formats."""
    tiny = TINY[name]
    kv_heads = 8 if name == "gpt2" else tiny.settings["num_key_value_heads"]
    sizes = {**WIDE, "num_key_value_heads": kv_heads, "n_inner": 512}
    if tiny.kind != "GPT2":
        del sizes["n_inner"]
    return dataclasses.replace(tiny, name=f"{name}-wide", settings={**tiny.settings, **sizes})
