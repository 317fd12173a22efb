"""The numbers that fix a model's shape, in one form for every family."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

# What a layer's attention sees: everything before it; the last `sliding_window` positions; the chunk of
# `sliding_window` positions that it is in; everything, through one latent vector a position (MLA); a state
# of fixed size; or, in an encoder, the whole text. boli runs the first two.
LayerType = Literal["full", "sliding", "chunked", "mla", "linear", "bidirectional"]
Layout = Literal["decoder", "encoder", "encoder-decoder"]
Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]


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
class Experts:
    """A mixture of experts: of `num_experts` MLPs in a layer, each token goes through a few.

    Shazeer et al. 2017, https://arxiv.org/abs/1701.06538.

    Attributes:
        num_experts: MLPs that a router chooses from.
        num_experts_per_tok: How many it chooses for a token.
        moe_intermediate_size: Width of one of them.
        shared_intermediate_size: Width of what every token goes through besides; 0 for nothing.
        layers: The layers that have experts; the others have one MLP.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_intermediate_size: int = 0
    layers: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Multi-head latent attention: keys and values are kept as one short vector a position.

    DeepSeek-AI 2024, https://arxiv.org/abs/2405.04434. What must be kept of a position is
    `kv_lora_rank + qk_rope_head_dim` numbers a layer, for all heads together.

    Attributes:
        q_lora_rank: Width of the queries' latent vector; None where queries are projected directly.
        kv_lora_rank: Width of the latent vector of keys and values.
        qk_nope_head_dim: The part of a head's key that has no position.
        qk_rope_head_dim: The part that is rotated; one for all heads.
        v_head_dim: A head's value.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A Transformer, family differences included.

    All sizes count numbers, not bytes. `layer_types`, one a layer, says whether its attention sees
    everything before it or the last `sliding_window` positions (itself included).
    `attention_scale` multiplies Q·K; `embedding_scale` multiplies the looked-up embeddings.

    What `boli weigh` can describe is more than what boli runs: `runnable` tells. Only there are `layout`
    (with `num_encoder_layers` of the `num_hidden_layers`, which come first), `parallel` (attention and
    MLP read the same input), `experts`, `mla`, and `linear_state`, the numbers that a layer with linear
    attention keeps for a sequence.
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
    layout: Layout = "decoder"
    num_encoder_layers: int = 0
    parallel: bool = False
    experts: Experts | None = None
    mla: Mla | None = None
    linear_state: int = 0
    runnable: bool = True
    extra: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.layer_types:
            kind: LayerType = "sliding" if self.sliding_window else "full"
            object.__setattr__(self, "layer_types", (kind,) * self.num_hidden_layers)
        if not self.attention_scale and self.head_dim:
            object.__setattr__(self, "attention_scale", 1.0 / math.sqrt(self.head_dim))

    def rope_of(self, layer: int) -> Rope | None:
        """The rotary embedding of one layer, or None for learned positions."""
        if self.layer_types[layer] == "sliding" and self.rope_sliding is not None:
            return self.rope_sliding
        return self.rope

    def window_of(self, layer: int) -> int | None:
        """How many positions a layer sees, itself included; None for all."""
        return self.sliding_window if self.layer_types[layer] in ("sliding", "chunked") else None
