"""The list of a model's weights: what each is for, its shape, and where files keep it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from boli.blueprint.config import Config

Role = Literal[
    "embedding", "position_embedding",
    "attention_norm", "attention_norm_bias",
    "q", "k", "v", "qkv", "o", "q_bias", "k_bias", "v_bias", "qkv_bias", "o_bias",
    "q_norm", "k_norm", "post_attention_norm",
    "mlp_norm", "mlp_norm_bias",
    "gate", "up", "down", "gate_bias", "up_bias", "down_bias", "post_mlp_norm",
    "final_norm", "final_norm_bias", "head",
    # What follows is in families that boli weighs and does not run.
    "token_type_embedding", "embedding_norm", "embedding_norm_bias", "embedding_projection",
    "head_bias", "head_projection", "head_projection_bias", "head_norm", "head_norm_bias",
    "encoder_norm", "pooler", "pooler_bias", "post_attention_norm_bias", "post_mlp_norm_bias",
    "gate_up", "relative_position_bias", "attention_sinks",
    "q_a", "q_a_norm", "q_b", "kv_a", "kv_a_norm", "kv_b",
    "cross_norm", "cross_norm_bias", "cross_q", "cross_k", "cross_v", "cross_o",
    "router", "router_bias", "expert_gate", "expert_up", "expert_down", "expert_gate_up",
    "expert_gate_up_bias", "expert_down_bias", "shared_gate", "shared_up", "shared_down", "shared_router",
    "conv", "linear_in", "linear_gates", "linear_decay", "linear_dt_bias", "linear_norm", "linear_out",
    "prediction_embedding_norm", "prediction_hidden_norm", "prediction_projection", "prediction_norm",
    "other",
]  # fmt: skip

# What a file's numbers need to become the weight:
#   none       nothing
#   transpose  the file holds (in, out)                        GPT-2's Conv1D
#   plus_one   the file holds w, the norm multiplies by 1 + w  Gemma in safetensors
#   unpermute  the rows of each head are interleaved pairs     Llama in GGUF
Transform = Literal["none", "transpose", "plus_one", "unpermute"]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one file format keeps a weight: the first of `names` that exists."""

    names: tuple[str, ...]
    transform: Transform = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One matrix or vector, or the matrices of all experts of a layer.

    Attributes:
        name: The name in the family's Hugging Face checkpoint; boli's own name for it too. Experts
            are numbered there, `experts.0.gate_proj.weight`; here the number is left out.
        role: What it does in the layer.
        layer: Which layer it belongs to, or None.
        shape: `(out_features, in_features)` of `y = W x`, or `(n,)`, or
            `(experts, out_features, in_features)`.
        safetensors: Where a safetensors file keeps it.
        gguf: Where a GGUF file keeps it.
        tied_to: Name of the weight whose numbers it shares; then it is stored once, there.
    """

    name: str
    role: Role
    layer: int | None
    shape: tuple[int, ...]
    safetensors: Stored
    gguf: Stored
    tied_to: str | None = None

    @property
    def parameters(self) -> int:
        """How many numbers it holds; 0 if it is tied to another weight."""
        count = 1
        for size in self.shape:
            count *= size
        return 0 if self.tied_to else count


class Blueprint:
    """A model described once: its configuration and its weights.

    From this one description boli weighs, loads, runs and shows.

    Args:
        config: The numbers that fix its shape.
        weights: What a forward pass needs.
        prediction: Weights of modules that predict further tokens (DeepSeek's MTP). A checkpoint
            stores them; `parameters` does not count them, since text comes out without them.
    """

    def __init__(
        self, config: Config, weights: tuple[Weight, ...], prediction: tuple[Weight, ...] = ()
    ) -> None:
        self.config = config
        self.weights = weights
        self.prediction = prediction
        self._by_role = {(weight.role, weight.layer): weight for weight in weights}

    def __iter__(self) -> Iterator[Weight]:
        return iter(self.weights)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"Blueprint({c.family}, {c.num_hidden_layers} layers, hidden {c.hidden_size}, "
            f"heads {c.num_attention_heads}/{c.num_key_value_heads}, vocabulary {c.vocab_size}, "
            f"{self.parameters:,} parameters)"
        )

    @property
    def parameters(self) -> int:
        """The number of distinct numbers in the model; tied weights count once."""
        return sum(weight.parameters for weight in self.weights)

    def find(self, role: Role, layer: int | None = None) -> Weight | None:
        """The weight with this role, or None if the family has no such weight."""
        return self._by_role.get((role, layer))
