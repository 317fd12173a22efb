"""The forward pass in plain NumPy: slow, whole, and meant to be read.

Everything that boli runs fast is tested against this. One call takes a whole sequence from its
first position; nothing is cached, nothing is blocked, all numbers are float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boli.blueprint import Config, Role, Rope
from boli.formats.checkpoint import Checkpoint

Float32 = NDArray[np.float32]


def forward(checkpoint: Checkpoint, token_ids: Sequence[int]) -> Float32:
    """Logits after each token of a sequence.

    Args:
        checkpoint: The open model; weights are brought to float32 one after the other.
        token_ids: The sequence, at least one id.

    Returns:
        float32 `[len(token_ids), vocab_size]`.
    """
    config = checkpoint.blueprint.config
    embedding = _need(checkpoint, "embedding", None)
    x = embedding[list(token_ids)] * np.float32(config.embedding_scale)
    positions = _get(checkpoint, "position_embedding", None)
    if positions is not None:
        x = x + positions[: len(token_ids)]
    for layer in range(config.num_hidden_layers):
        attended = _attention(checkpoint, layer, _norm(checkpoint, "attention_norm", layer, x))
        if config.post_norms:
            attended = _norm(checkpoint, "post_attention_norm", layer, attended)
        x = x + attended
        thought = _mlp(checkpoint, layer, _norm(checkpoint, "mlp_norm", layer, x))
        if config.post_norms:
            thought = _norm(checkpoint, "post_mlp_norm", layer, thought)
        x = x + thought
    x = _norm(checkpoint, "final_norm", None, x)
    head = embedding if config.tie_word_embeddings else _need(checkpoint, "head", None)
    logits: Float32 = x @ head.T
    return logits


def likeliest(logits: Float32) -> NDArray[np.int64]:
    """What `boli.engine.batch.Runner.likeliest` is, of float32 `[outputs, vocab_size]`."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def rope_angles(rope: Rope, length: int) -> tuple[Float32, Float32]:
    """Cosines and sines of each position's and pair's angle, `[length, dim / 2]` each."""
    angles = np.arange(length)[:, None] * np.asarray(rope.inverse_frequencies)[None, :]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Turns the pairs `(i, i + dim / 2)` of each head; `x` is `[length, heads, head_dim]`."""
    half = cos.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def softmax(x: Float32) -> Float32:
    """Over the last axis."""
    exponentials: Float32 = np.exp(x - x.max(axis=-1, keepdims=True))
    probabilities: Float32 = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _attention(checkpoint: Checkpoint, layer: int, x: Float32) -> Float32:
    config, length = checkpoint.blueprint.config, len(x)
    q, k, v = _qkv(checkpoint, layer, x)
    if config.qk_norm:
        q = _norm(checkpoint, "q_norm", layer, q)
        k = _norm(checkpoint, "k_norm", layer, k)
    rope = config.rope_of(layer)
    if rope is not None:
        cos, sin = rope_angles(rope, length)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)

    group = config.num_attention_heads // config.num_key_value_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k, optimize=True) * np.float32(config.attention_scale)
    scores = np.where(_visible(length, config.window_of(layer)), scores, np.float32(-np.inf))
    heads = np.einsum("hqk,khd->qhd", softmax(scores), v, optimize=True)
    return _linear(checkpoint, "o", "o_bias", layer, heads.reshape(length, -1))


def _qkv(checkpoint: Checkpoint, layer: int, x: Float32) -> tuple[Float32, Float32, Float32]:
    """Queries, keys and values, each `[length, heads, head_dim]`."""
    config = checkpoint.blueprint.config
    if checkpoint.blueprint.find("qkv", layer):
        rows = _linear(checkpoint, "qkv", "qkv_bias", layer, x)
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        q, k, v = np.split(rows, [q_size, q_size + kv_size], axis=1)
    else:
        q = _linear(checkpoint, "q", "q_bias", layer, x)
        k = _linear(checkpoint, "k", "k_bias", layer, x)
        v = _linear(checkpoint, "v", "v_bias", layer, x)
    shape = (len(x), -1, config.head_dim)
    return q.reshape(shape), k.reshape(shape), v.reshape(shape)


def _visible(length: int, window: int | None) -> NDArray[np.bool_]:
    """`[queries, keys]`: a position sees itself and what is before it, at most `window` in all."""
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    return (distance >= 0) & (distance < (window or length))


def _mlp(checkpoint: Checkpoint, layer: int, x: Float32) -> Float32:
    config = checkpoint.blueprint.config
    up = _linear(checkpoint, "up", "up_bias", layer, x)
    if config.gated_mlp:
        inner = _activate(config, _linear(checkpoint, "gate", "gate_bias", layer, x)) * up
    else:
        inner = _activate(config, up)
    return _linear(checkpoint, "down", "down_bias", layer, inner)


def _activate(config: Config, x: Float32) -> Float32:
    if config.activation == "silu":
        gate = 1 / (1 + np.exp(-np.maximum(x, np.float32(-80))))  # below -80, exp overflows float32
    elif config.activation == "gelu_tanh":
        gate = (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    else:
        erf = np.vectorize(math.erf, otypes=[np.float32])
        gate = (1 + erf(x / math.sqrt(2))) / 2
    return np.asarray(x * gate, np.float32)


def _norm(checkpoint: Checkpoint, role: Role, layer: int | None, x: Float32) -> Float32:
    """RMS norm or LayerNorm over the last axis."""
    config = checkpoint.blueprint.config
    if config.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(config.norm_eps))
    x = x * _need(checkpoint, role, layer)
    biases: dict[Role, Role] = {
        "attention_norm": "attention_norm_bias",
        "mlp_norm": "mlp_norm_bias",
        "final_norm": "final_norm_bias",
    }
    bias = _get(checkpoint, biases[role], layer) if role in biases else None
    return x if bias is None else x + bias


def _linear(checkpoint: Checkpoint, role: Role, bias_role: Role, layer: int, x: Float32) -> Float32:
    """`W x + b` for each row of `x`; not every matrix has a bias."""
    y: Float32 = x @ _need(checkpoint, role, layer).T
    bias = _get(checkpoint, bias_role, layer)
    return y if bias is None else y + bias


def _get(checkpoint: Checkpoint, role: Role, layer: int | None) -> Float32 | None:
    weight = checkpoint.blueprint.find(role, layer)
    return None if weight is None else checkpoint.float32(weight)


def _need(checkpoint: Checkpoint, role: Role, layer: int | None) -> Float32:
    values = _get(checkpoint, role, layer)
    if values is None:
        raise KeyError(f"the blueprint has no {role} in layer {layer}")
    return values
