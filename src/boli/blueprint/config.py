"""The numbers that fix a model's shape, in one form for every family."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

LayerType = Literal["full", "sliding"]
Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu_tanh", "gelu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary position embedding of one kind of layer.

    Attributes:
        theta: Base of the geometric series of wavelengths.
        dim: How many of each head's numbers are rotated, the first ones.
        inverse_frequencies: Radians per position of each pair, `dim / 2` numbers, with any
            long-context scaling (Llama 3, linear) already applied.
        scaling: Name of that scaling, for people.

    Pairs are `(i, i + dim / 2)`, as in Hugging Face checkpoints. Files that store interleaved
    pairs (GGUF of Llama) are brought to this order when they are loaded.
    """

    theta: float
    dim: int
    inverse_frequencies: tuple[float, ...]
    scaling: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A decoder-only Transformer, family differences included.

    All sizes count numbers, not bytes. `layer_types`, one a layer, says whether its attention sees
    everything before it or the last `sliding_window` positions (itself included).
    `attention_scale` multiplies Q·K; `embedding_scale` multiplies the looked-up embeddings.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    norm: Norm = "rms"
    norm_eps: float = 1e-5
    activation: Activation = "silu"
    gated_mlp: bool = True
    qk_norm: bool = False
    post_norms: bool = False
    layer_types: tuple[LayerType, ...] = ()
    sliding_window: int | None = None
    rope: Rope | None = None
    rope_sliding: Rope | None = None
    attention_scale: float = 0.0
    embedding_scale: float = 1.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    extra: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.layer_types:
            kind: LayerType = "sliding" if self.sliding_window else "full"
            object.__setattr__(self, "layer_types", (kind,) * self.num_hidden_layers)
        if not self.attention_scale:
            object.__setattr__(self, "attention_scale", 1.0 / math.sqrt(self.head_dim))

    def rope_of(self, layer: int) -> Rope | None:
        """The rotary embedding of one layer, or None for learned positions."""
        if self.layer_types[layer] == "sliding" and self.rope_sliding is not None:
            return self.rope_sliding
        return self.rope

    def window_of(self, layer: int) -> int | None:
        """How many positions a layer sees, itself included; None for all."""
        return self.sliding_window if self.layer_types[layer] == "sliding" else None
