"""Which tokens end a generation."""

from __future__ import annotations

from collections.abc import Mapping

END_NAMES = (
    "<|im_end|>",  # ChatML: SmolLM2, Qwen
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",  # Llama 3, before a tool's answer
    "<|end_of_text|>",  # Llama 3, Granite
    "<end_of_turn>",  # Gemma
    "<eos>",  # Gemma
    "<|endoftext|>",  # GPT-2, Qwen, Falcon
    "<|end|>",  # Phi-3
    "</s>",  # Llama 1 and 2, Mistral
    "<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",  # DeepSeek
)
"""Names of control tokens with which models say that they are done. Files often list only one of several."""


def named_ends(special: Mapping[str, int]) -> frozenset[int]:
    """The ids of those special tokens (text to id) whose name says that they end a generation."""
    return frozenset(special[name] for name in END_NAMES if name in special)
