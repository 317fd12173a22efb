"""What boli's own CPU engine allocates: the same sizes as its ledger, from the same tables, without NumPy.

`tests/weigh/test_run.py` loads models and compares every category with the ledger, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from boli.blueprint.config import Config
from boli.blueprint.weights import Blueprint, Role, Weight
from boli.cpu import plan, sizes
from boli.cpu.layouts import LAYOUTS, ROWS_PER_BLOCK, IntLayout, Layout, packed_bytes, padded
from boli.engine.capacity import MAX_ROWS, MAX_SEQUENCES, pages_for

LINE = 64  # what buffers are padded to

FormatOf = Callable[[Weight], str]


@dataclass(frozen=True, slots=True)
class Packed:
    """One matrix in the kernels' order; fused queries, keys and values are three.

    Attributes:
        weight: The blueprint's weight.
        format: Its number format in the file.
        layout: What that becomes.
        rows: Output features.
        columns: Input features.
    """

    weight: Weight
    format: str
    layout: Layout
    rows: int
    columns: int

    @property
    def bytes(self) -> int:
        """With the padding of rows, of columns, and of the buffer."""
        return padded(packed_bytes(self.layout, self.rows, self.columns), LINE)

    @property
    def panel_bytes(self) -> int:
        """Of one block of rows, unpacked for many tokens."""
        if not isinstance(self.layout, IntLayout):
            return 0
        return self.layout.depth(self.columns) * self.layout.panel.step_bytes


class Matrices(tuple[Packed, ...]):
    """Every matrix that the runner packs, tied ones once. Made by `packed_matrices`."""

    @cached_property
    def encodings(self) -> frozenset[str]:
        """What activations are multiplied as."""
        return frozenset(matrix.layout.encoding for matrix in self)

    @cached_property
    def panel_bytes(self) -> int:
        """The largest of them all."""
        return max(matrix.panel_bytes for matrix in self)


def packed_matrices(blueprint: Blueprint, format_of: FormatOf) -> Matrices:
    """Every matrix that the runner packs.

    Args:
        blueprint: A model that boli runs.
        format_of: The number format of a weight.

    Raises:
        KeyError: boli does not compute with a format.
    """
    return Matrices(_matrices(blueprint, format_of))


def _matrices(blueprint: Blueprint, format_of: FormatOf) -> Iterator[Packed]:
    config, find = blueprint.config, blueprint.find

    def packed(weight: Weight, rows: int) -> Packed:
        kind = format_of(weight)
        return Packed(weight, kind, LAYOUTS[kind], rows, weight.shape[1])

    outside: tuple[Role, ...] = ("embedding", "head", "position_embedding")
    for role in outside:
        weight = find(role)
        if weight is not None and not weight.tied_to:
            yield packed(weight, weight.shape[0])
    inside: tuple[Role, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    parts = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    for layer in range(config.num_hidden_layers):
        fused = find("qkv", layer)
        if fused is not None:
            for heads in parts:
                yield packed(fused, heads * config.head_dim)
        for role in inside:
            weight = find(role, layer)
            if weight is not None:
                yield packed(weight, weight.shape[0])


def vector_bytes(blueprint: Blueprint) -> int:
    """Norms and biases, as float32; a fused bias is cut into three, each padded."""
    sizes = [padded(weight.shape[0], 32) for weight in blueprint if len(weight.shape) == 1]
    return 4 * (sum(sizes) + 64 * len(sizes))


def page_bytes(config: Config, kv_type: str = "bf16") -> int:
    """A page of the KV cache: keys and values of all heads of all layers."""
    heads = config.num_hidden_layers * config.num_key_value_heads
    return heads * sizes.page_bytes(kv_type, padded(config.head_dim, sizes.HEAD_PADDING))


def pages(context: int) -> int:
    """Pages that the engine takes for this context, and for short requests beside it."""
    return pages_for(context, page_size=sizes.PAGE_SIZE, max_sequences=defaults().max_sequences)


class Defaults(NamedTuple):
    """What `boli.load` gives the engine."""

    max_rows: int
    max_sequences: int


def defaults() -> Defaults:
    """Tokens of a step at most, and requests that run at once."""
    return Defaults(MAX_ROWS, MAX_SEQUENCES)


def rope_bytes(config: Config, context: int) -> int:
    """Cosines and sines, a table for each kind of layers."""
    ropes = {config.rope_of(layer) for layer in range(config.num_hidden_layers)}
    tables = {rope.inverse_frequencies for rope in ropes if rope is not None}
    return sum(context * len(frequencies) * 2 * 4 for frequencies in tables)


def logits_bytes(config: Config) -> int:
    """A row of logits. As many rows are allocated as requests were ever answered in one step."""
    return padded(config.vocab_size, 32) * 4


def workspace(
    config: Config, matrices: Matrices, *, threads: int, max_rows: int, context: int
) -> dict[str, int]:
    """Bytes of the activations of a step and of what the threads share, by what they are for.

    Args:
        config: The model.
        matrices: From `packed_matrices`.
        threads: How many share a step.
        max_rows: Tokens of a step at most.
        context: Positions of a sequence at most.
    """
    rows, few = max_rows, min(plan.FEW_ROWS, max_rows)
    hidden, mlp = padded(config.hidden_size, 32), padded(config.intermediate_size, 32)
    heads, head = config.num_attention_heads, padded(config.head_dim, sizes.HEAD_PADDING)
    q, kv = (padded(n * config.head_dim, 32) for n in (heads, config.num_key_value_heads))
    share = ROWS_PER_BLOCK * (rows if rows > few else 0)
    inner = max(few * mlp, threads * share) * 4

    def streams(tokens: int, columns: int) -> int:
        return sum(sizes.streams_bytes(each, tokens, columns) for each in matrices.encodings)

    return {
        "residual stream": 2 * rows * hidden * 4,
        "queries, keys, values": rows * (q + 2 * kv) * 4,
        "attention": max(rows, few * threads) * q * 4,
        "MLP": 2 * inner,
        "inputs of matrices": streams(rows, hidden) + streams(rows, max(q, mlp)),
        "inputs of a thread": threads * streams(few, max(hidden, q)),
        "partial attention": few * heads * -(-context // sizes.CHUNK) * sizes.result_bytes(head),
        "unpacked blocks": threads * padded(matrices.panel_bytes, LINE),
        "scratch": threads * padded(max(sizes.scratch_bytes(head), hidden * 4), LINE),
        "RoPE tables": rope_bytes(config, context),
        "barrier": plan.PASSED + threads * plan.CACHE_LINE,
    }
