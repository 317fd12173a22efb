"""Builds the plan of a model: the tables of `plan.py`, and the memory that they point to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boli.cpu import plan as p
from boli.cpu.compiler import Unit
from boli.cpu.header import Header, Limits
from boli.cpu.layouts import ROWS_PER_BLOCK, padded
from boli.cpu.packing import (
    PackedMatrix,
    Packer,
    Words,
    attend_unit,
    look_up_unit,
    project_unit,
    rope_table,
)
from boli.cpu.sizes import (
    CHUNK,
    HEAD_PADDING,
    KV_TYPES,
    page_bytes,
    pages_together,
    result_bytes,
    scratch_bytes,
    streams_bytes,
)

if TYPE_CHECKING:
    from boli.blueprint.config import Config
    from boli.engine.ledger import Ledger
    from boli.formats.checkpoint import Checkpoint

ACTIVATIONS = {"silu": p.SILU, "gelu_tanh": p.GELU_TANH, "gelu": p.GELU_ERF}


def kv_cache_bytes(config: Config, num_pages: int, kv_type: str = "bf16") -> int:
    """Bytes of the cache: keys and values of `num_pages` pages of 32 positions, of all layers."""
    heads = config.num_hidden_layers * config.num_key_value_heads
    return heads * num_pages * page_bytes(kv_type, padded(config.head_dim, HEAD_PADDING))


class Plan:
    """What the compiled step does for one model, and where.

    Args:
        checkpoint: The open model. It may be closed afterwards.
        ledger: Every buffer is entered here before it is allocated.
        num_pages: Pages of the KV cache.
        max_rows: How many rows a step may have.
        threads: How many threads share a step.
        context: How many positions a sequence may have.
        kv_type: What keys and values are kept as.

    Attributes:
        header: The table of a step.
        cache: The KV cache, bytes `[layers · pages · page_bytes]`.
        residual: The residual stream, float32 `[max_rows, hidden_size padded to 32]`.

    Raises:
        OutOfMemory: a buffer does not fit.
        NumericError: a norm or a bias holds NaN.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        ledger: Ledger,
        *,
        num_pages: int,
        max_rows: int,
        threads: int,
        context: int,
        kv_type: str,
    ) -> None:
        self.blueprint = checkpoint.blueprint
        self.num_pages, self.max_rows, self.threads = num_pages, max_rows, threads
        self.context, self.kv_type = context, kv_type
        self._ledger = ledger
        self._keep: list[npt.NDArray[Any]] = []
        self._matrices: list[PackedMatrix] = []
        config = self.blueprint.config
        limits = Limits(max_rows, config.vocab_size, context, num_pages, config.num_key_value_heads)
        self.header = Header(limits)
        packer = Packer(checkpoint, ledger)
        self._plan_weights(packer)
        self.cache = self._plan_cache()
        self.residual = self._plan_workspace()
        packer.pack(threads)

    def units(self) -> list[Unit]:
        """The kernels that this model needs, besides the step itself."""
        units = {unit.name: unit for unit in (project_unit(m.layout) for m in self._matrices)}
        for index in (self._embedding, self._position):
            if index is not None:
                unit = look_up_unit(self._matrices[index].layout)
                units[unit.name] = unit
        return [*units.values(), attend_unit(self.kv_type)]

    def link(self, addresses: dict[str, int]) -> None:
        """Writes the addresses of compiled kernels, by name of their unit, into the tables."""
        table = self._table(len(self._matrices), p.MATRIX_WORDS)
        for matrix, row in zip(self._matrices, table, strict=True):
            matrix.describe(row, addresses)
        for layer, placed in enumerate(self._matrices_of):
            for field, index in placed.items():
                self._layers[layer, field // p.WORD] = table[index].ctypes.data
        self.header.set(p.EMBEDDING, table[self._embedding].ctypes.data)
        self.header.set(p.HEAD, table[self._head].ctypes.data)
        self.header.set(p.ATTEND, addresses[attend_unit(self.kv_type).name])
        self.header.set(p.HEAD_WANTS, self._matrices[self._head].wants)
        if self._position is not None:
            self.header.set(p.POSITION_EMBEDDING, table[self._position].ctypes.data)

    def forget(self) -> None:
        """Lets go of weights and cache; no step may run afterwards."""
        self._keep.clear()
        self._matrices.clear()
        self.cache, self.residual = self.cache[:0], self.residual[:0]

    def _plan_weights(self, packer: Packer) -> None:
        config, find = self.blueprint.config, self.blueprint.find
        embedding, head = find("embedding"), find("head")
        assert embedding is not None and head is not None, "every blueprint has both"
        self._embedding = self._add(packer.matrix(embedding))
        self._head = self._add(packer.matrix(head))
        position = find("position_embedding")
        self._position = None if position is None else self._add(packer.matrix(position))
        for field, role in ((p.FINAL_NORM, "final_norm"), (p.FINAL_NORM_BIAS, "final_norm_bias")):
            vector = packer.find(role)  # type: ignore[arg-type]
            self.header.set(field, None if vector is None else self._hold(vector))
        self._layers = self._table(config.num_hidden_layers, p.LAYER_WORDS)
        self._matrices_of = [self._plan_layer(packer, n) for n in range(config.num_hidden_layers)]
        values = {
            p.THREADS: self.threads,
            p.LAYERS: config.num_hidden_layers,
            p.VOCABULARY: config.vocab_size,
            p.LAYER_STRIDE: p.LAYER_WORDS * p.WORD,
            p.HIDDEN: config.hidden_size,
            p.HEADS: config.num_attention_heads,
            p.KV_HEADS: config.num_key_value_heads,
            p.HEAD_DIM: config.head_dim,
            p.HEAD_PADDED: padded(config.head_dim, HEAD_PADDING),
            p.ATTENTION_SCALE: _bits(config.attention_scale * math.log2(math.e)),  # softmax of powers of two
            p.LAYER_NORM: int(config.norm == "layer"),
            p.NORM_EPS: _bits(config.norm_eps),
            p.ACTIVATION: ACTIVATIONS[config.activation],
            p.GATED: int(config.gated_mlp),
            p.QK_NORM: int(config.qk_norm),
            p.POST_NORMS: int(config.post_norms),
            p.EMBEDDING_SCALE: _bits(config.embedding_scale),
        }
        for field, value in values.items():
            self.header.set(field, value)
        self.header.set(p.LAYER_TABLE, self._layers)

    def _plan_layer(self, packer: Packer, layer: int) -> dict[int, int]:
        """One layer's vectors and small numbers; returns the index of each of its matrices."""
        config, find = self.blueprint.config, self.blueprint.find
        row = self._layers[layer]
        vectors = (
            (p.ATTENTION_NORM, "attention_norm"), (p.ATTENTION_NORM_BIAS, "attention_norm_bias"),
            (p.Q_NORM, "q_norm"), (p.K_NORM, "k_norm"), (p.POST_ATTENTION_NORM, "post_attention_norm"),
            (p.MLP_NORM, "mlp_norm"), (p.MLP_NORM_BIAS, "mlp_norm_bias"), (p.POST_MLP_NORM, "post_mlp_norm"),
        )  # fmt: skip
        for field, role in vectors:
            values = packer.find(role, layer)  # type: ignore[arg-type]
            row[field // p.WORD] = 0 if values is None else self._hold(values).ctypes.data
        row[p.WINDOW // p.WORD] = config.window_of(layer) or 0
        rope = config.rope_of(layer)
        if rope is not None:
            row[p.ROPE_HALF // p.WORD] = rope.dim // 2
            row[p.ROPE_TABLE // p.WORD] = self._rope(rope.inverse_frequencies).ctypes.data
        matrices: dict[int, int] = {}
        sizes = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        ends = np.cumsum(sizes) * config.head_dim
        qkv = find("qkv", layer)
        for index, (field, role) in enumerate(((p.Q, "q"), (p.K, "k"), (p.V, "v"))):
            part = (int(ends[index] - sizes[index] * config.head_dim), int(ends[index]))
            weight = qkv or find(role, layer)  # type: ignore[arg-type]
            bias = find("qkv_bias", layer) if qkv else find(f"{role}_bias", layer)  # type: ignore[arg-type]
            assert weight is not None, "every layer has queries, keys and values"
            matrices[field] = self._add(packer.matrix(weight, bias, part if qkv else None))
        for field, role in ((p.ATTENTION_OUT, "o"), (p.DOWN, "down"), (p.GATE, "gate"), (p.UP_MATRIX, "up")):
            weight = find(role, layer)  # type: ignore[arg-type]
            if weight is not None:
                matrices[field] = self._add(packer.matrix(weight, find(f"{role}_bias", layer)))  # type: ignore[arg-type]
        if p.GATE in matrices:
            packer.interleave(*(self._matrices[matrices[field]] for field in (p.GATE, p.UP_MATRIX)))
        wants = {field: self._matrices[index].wants for field, index in matrices.items()}
        row[p.QKV_WANTS // p.WORD] = wants[p.Q] | wants[p.K] | wants[p.V]
        row[p.OUT_WANTS // p.WORD] = wants[p.ATTENTION_OUT]
        row[p.MLP_WANTS // p.WORD] = wants.get(p.GATE, 0) | wants[p.UP_MATRIX]
        row[p.DOWN_WANTS // p.WORD] = wants[p.DOWN]
        return matrices

    def _plan_cache(self) -> npt.NDArray[np.uint8]:
        config = self.blueprint.config
        size = kv_cache_bytes(config, self.num_pages, self.kv_type)
        page = size // (config.num_hidden_layers * self.num_pages)
        cache = self._allocate("kv_cache", size, np.uint8)
        self.header.set(p.KV_CACHE, cache)
        # Some pages of one head lie together: a sequence that got them in a row is read in a row.
        together = pages_together(self.num_pages)
        self.header.set(p.PAGE_STRIDE, page // config.num_key_value_heads)
        self.header.set(p.HEAD_STRIDE, page // config.num_key_value_heads * together)
        self.header.set(p.KV_TYPE, KV_TYPES.index(self.kv_type))
        self.header.set(p.LAYER_KV_STRIDE, page * self.num_pages)
        return cache

    def _plan_workspace(self) -> npt.NDArray[np.float32]:
        """Activations of a step; returns the residual stream. All starts as zeros, and padding stays zero."""
        config = self.blueprint.config
        rows, few = self.max_rows, min(p.FEW_ROWS, self.max_rows)
        hidden, mlp = padded(config.hidden_size, 32), padded(config.intermediate_size, 32)
        heads, head = config.num_attention_heads, padded(config.head_dim, HEAD_PADDING)
        q, kv = (padded(n * config.head_dim, 32) for n in (heads, config.num_key_value_heads))
        many = ROWS_PER_BLOCK * (rows if rows > few else 0)  # one block of outputs of all rows
        result = result_bytes(head)
        chunks = -(-self.context // CHUNK)
        panel = padded(max(matrix.panel_bytes for matrix in self._matrices), 64)
        scratch = padded(max(scratch_bytes(head), hidden * 4), 64)
        buffers = (
            (p.X, rows * hidden * 4), (p.QKV, rows * (q + 2 * kv) * 4), (p.BRANCH, rows * hidden * 4),
            (p.ATTENTION, max(rows, few * self.threads) * q * 4),
            (p.MLP, max(few * mlp, self.threads * many) * 4), (p.UP, max(few * mlp, self.threads * many) * 4),
            (p.PARTIALS, few * heads * chunks * result), (p.PANELS, self.threads * panel),
            (p.SCRATCH, self.threads * scratch),
        )  # fmt: skip
        allocated = {place: self._allocate("workspace", size, np.uint8) for place, size in buffers}
        for place, buffer in allocated.items():
            self.header.set(place, buffer)
        strides = {
            p.X_STRIDE: hidden * 4, p.QKV_STRIDE: (q + 2 * kv) * 4, p.K_OFFSET: q * 4,
            p.V_OFFSET: (q + kv) * 4, p.ATTENTION_STRIDE: q * 4, p.MLP_STRIDE: mlp * 4, p.MLP_SHARE: many * 4,
            p.MAX_CHUNKS: chunks, p.RESULT_STRIDE: result, p.SCRATCH_STRIDE: scratch, p.PANEL_BYTES: panel,
        }  # fmt: skip
        for place, stride in strides.items():
            self.header.set(place, stride)
        self.header.set(p.INPUT, self._streams(rows, hidden))
        self.header.set(p.INNER, self._streams(rows, max(q, mlp)))
        private = [self._streams(few, max(hidden, q)) for _ in range(self.threads)]
        self.header.set(p.PRIVATE, self._hold(np.concatenate(private)))
        return allocated[p.X].view(np.float32).reshape(rows, hidden)

    def _streams(self, rows: int, columns: int) -> Words:
        """Addresses of rows in each encoding that a matrix of this model is multiplied with."""
        wanted = {matrix.layout.encoding for matrix in self._matrices}
        table = self._table(len(p.ENCODINGS))
        for encoding, place in p.ENCODINGS.items():
            if encoding in wanted:
                size = streams_bytes(encoding, rows, columns)
                table[place] = self._allocate("workspace", size, np.uint8).ctypes.data
        return table

    def _add(self, matrix: PackedMatrix) -> int:
        self._matrices.append(matrix)
        return len(self._matrices) - 1

    def _rope(self, frequencies: tuple[float, ...]) -> npt.NDArray[np.float32]:
        """One table for all layers with the same frequencies."""
        tables: dict[tuple[float, ...], npt.NDArray[np.float32]] = self.__dict__.setdefault("_tables", {})
        if frequencies not in tables:
            self._ledger.enter("workspace", self.context * len(frequencies) * 8, "RoPE table")
            tables[frequencies] = self._hold(rope_table(frequencies, self.context))
        return tables[frequencies]

    def _table(self, *shape: int) -> Words:
        return self._hold(np.zeros(shape, np.int64))

    def _allocate(self, category: str, count: int, dtype: Any, *, zero: bool = True) -> npt.NDArray[Any]:
        return self._hold(self._ledger.allocate(category, count, dtype, zero=zero))

    def _hold(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keeps an array alive whose address is in a table."""
        self._keep.append(array)
        return array


def _bits(value: float) -> int:
    """A float32's bits as an integer, to be put into a table."""
    return int(np.float32(value).view(np.uint32))
