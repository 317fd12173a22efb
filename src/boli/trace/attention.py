"""Attention weights, which the fused kernel never has in one place, computed again from what it read.

The kernel goes over pages of keys with a running maximum and keeps no weights. Here they are computed from
the same rotated queries and the same cached keys, with the family's scale, mask and window, in float64:

    weights[h, i, j] = softmax over j of (scale · q[i, h] · k[j, h // group]),   i - window < j ≤ i

Queries are rounded as the kernel rounds them for a bfloat16 cache. The kernel also rounds the weights there,
to 8 bits of precision, before it mixes the values; the weights here are as they were before that.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from boli.blueprint.config import Config
from boli.engine.batch import Float32


def attention_weights(
    config: Config, layer: int, queries: Float32, keys: Float32, positions: NDArray[np.int64], kv_type: str
) -> Float32:
    """The weights of some queries of one layer.

    Args:
        config: The model.
        layer: Which layer.
        queries: After QK-norm and RoPE, float32 `[rows, num_attention_heads * head_dim]`.
        keys: As the cache holds them, float32 `[length, num_key_value_heads, head_dim]`.
        positions: Of the queries, below `length`, `[rows]`.
        kv_type: Of the cache.

    Returns:
        float32 `[num_attention_heads, rows, length]`: each row sums to 1; what a query may not see is 0.
    """
    kv_heads = config.num_key_value_heads
    group = config.num_attention_heads // kv_heads
    scaled = queries * np.float32(config.attention_scale * math.log2(math.e))  # for powers of 2
    if kv_type == "bf16":
        scaled = _to_bf16(scaled)
    grouped = scaled.reshape(len(queries), kv_heads, group, config.head_dim).astype(np.float64)
    scores = np.einsum("rkgd,jkd->kgrj", grouped, keys.astype(np.float64), optimize=True)
    distance = positions[:, None] - np.arange(len(keys))[None, :]
    window = config.window_of(layer) or len(keys)
    scores[..., (distance < 0) | (distance >= window)] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp2(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    weights: Float32 = scores.reshape(config.num_attention_heads, len(queries), len(keys)).astype(np.float32)
    return weights


def _to_bf16(values: Float32) -> Float32:
    """Rounded to the nearest bfloat16, ties to even; values are finite."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)
