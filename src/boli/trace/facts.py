"""What stays the same for all tokens: the model, its weights, what each stage of a layer reads and computes.

Bytes are those in memory, as the kernels read them, by the tables of `boli.weigh`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from boli.cpu.layouts import padded
from boli.cpu.sizes import HEAD_PADDING, PAGE_SIZE, page_bytes
from boli.trace.stages import LAYER_STAGES, STAGES
from boli.weigh.engine_sizes import packed_matrices

if TYPE_CHECKING:
    from boli.blueprint.config import Config
    from boli.engine.llm import LLM

Entry = dict[str, object]


def weight_bytes(llm: LLM) -> dict[str, int]:
    """Bytes of each weight in memory, by name; a tied one takes none."""
    bytes_of = {weight.name: 0 for weight in llm.blueprint}
    for matrix in packed_matrices(llm.blueprint, lambda weight: llm.number_formats[weight.name]):
        bytes_of[matrix.weight.name] += matrix.bytes
    for weight in llm.blueprint:
        if len(weight.shape) == 1:
            bytes_of[weight.name] = 4 * weight.shape[0]
    return bytes_of


def describe_model(llm: LLM, page_size: int) -> Entry:
    """`model` of the document."""
    config = llm.blueprint.config
    return {
        "name": llm.title,
        "family": config.family,
        "source": llm.path.name,
        "format": llm.format,
        "weights": llm.weights.form,
        "hash": llm.fingerprint,
        "parameters": llm.blueprint.parameters,
        "bytes": sum(weight_bytes(llm).values()),
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "activation": config.activation,
        "gated": config.gated_mlp,
        "norm": config.norm,
        "qk_norm": config.qk_norm,
        "post_norms": config.post_norms,
        "positions": "learned" if config.rope is None else "rope",
        "windows": [config.window_of(layer) for layer in range(config.num_hidden_layers)],
        "kv_cache_type": llm.kv_cache_type,
        "page_size": page_size,
        "context": llm.context,
    }


def describe_weights(llm: LLM) -> list[Entry]:
    """`weights` of the document."""
    bytes_of = weight_bytes(llm)
    return [
        {
            "name": weight.name,
            "role": weight.role,
            "layer": weight.layer,
            "shape": list(weight.shape),
            "parameters": weight.parameters,
            "type": llm.number_formats[weight.name],
            "bytes": bytes_of[weight.name],
            "tied_to": weight.tied_to,
        }
        for weight in llm.blueprint
    ]


def describe_layers(llm: LLM) -> list[Entry]:
    """`layers` of the document: what one decoded token reads and computes in each stage.

    What grows with the positions that a token looks back on is given for one position.
    """
    config, bytes_of = llm.blueprint.config, weight_bytes(llm)
    kv = kv_bytes_per_position(config, llm.kv_cache_type)
    flops = 2 * config.num_attention_heads * config.head_dim
    layers: list[Entry] = []
    for layer in range(config.num_hidden_layers):
        own = [weight for weight in llm.blueprint if weight.layer == layer]
        stages: dict[str, dict[str, float]] = {}
        for stage in STAGES:
            if stage.key not in LAYER_STAGES:
                continue
            weights = [weight for weight in own if weight.role in stage.roles]
            stages[stage.key] = {
                "bytes": sum(bytes_of[weight.name] for weight in weights),
                "flops": sum(2 * prod(weight.shape) for weight in weights if len(weight.shape) > 1),
            }
        for key in ("scores", "weighted_sum"):
            stages[key] |= {"bytes_per_position": kv / 2, "flops_per_position": flops}
        total = sum(bytes_of[weight.name] for weight in own)
        layers.append({"index": layer, "window": config.window_of(layer), "bytes": total, "stages": stages})
    return layers


def kv_bytes_per_position(config: Config, kv_type: str) -> float:
    """Keys and values of one position in one layer, with the padding of heads."""
    page = page_bytes(kv_type, padded(config.head_dim, HEAD_PADDING))
    return config.num_key_value_heads * page / PAGE_SIZE


def bytes_per_token(llm: LLM) -> int:
    """Bytes of weights that decoding one token reads: all but the embedding, of which it reads a row.

    A tied head reads the embedding's.
    """
    bytes_of = weight_bytes(llm)
    return sum(
        bytes_of[weight.tied_to or weight.name]
        for weight in llm.blueprint
        if weight.role not in ("embedding", "position_embedding")
    )
