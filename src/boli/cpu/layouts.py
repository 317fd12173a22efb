"""How weights lie in memory for the kernels.

Thirty-two rows of a matrix make a block: two vectors of 16 lanes, one lane an output. A block is
one contiguous stream in the order in which it is read, and so is the whole matrix:

    float layouts    for each input k: 32 numbers, one a row
    integer layouts  for each group of inputs (32 or 16): the quants, then 32 scales, then 32 minimums

Quants are unsigned bytes or nibbles, four inputs deep: one 64-byte vector holds inputs k … k+3 of
16 rows, the next one those of the other 16 rows. Of nibbles, the low halves are inputs k … k+3 and
the high halves k+4 … k+7.

    weight = scale * (quant - zero) + minimum

which is exact: a packed matrix holds the same numbers as the file, at the same number of bits.
`zero` is one integer for the whole matrix; it makes signed quants unsigned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from boli.formats.numbers import Groups, groups

if TYPE_CHECKING:
    from boli.formats.checkpoint import Matrix

LANES = 16
VECTORS = 2
ROWS_PER_BLOCK = LANES * VECTORS

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FloatLayout:
    """Weights kept as floating-point numbers of `element` type."""

    element: Literal["f32", "f16", "bf16"]

    @property
    def name(self) -> str:
        """Names the compiled kernel."""
        return self.element

    @property
    def element_bytes(self) -> int:
        """Bytes of one weight."""
        return 4 if self.element == "f32" else 2

    def depth(self, columns: int) -> int:
        """Steps of the inner loop: one an input."""
        return columns

    def block_bytes(self, columns: int) -> int:
        """Bytes of a block."""
        return columns * ROWS_PER_BLOCK * self.element_bytes


@dataclass(frozen=True, slots=True)
class IntLayout:
    """Weights kept as `bits`-bit integers with one scale for each `group` inputs of a row."""

    bits: Literal[4, 8]
    group: Literal[16, 32]
    minimum: bool
    scale: Literal["f16", "f32"]

    @property
    def name(self) -> str:
        """Names the compiled kernel."""
        return f"q{self.bits}g{self.group}{'m' if self.minimum else ''}{self.scale}"

    @property
    def quant_bytes(self) -> int:
        """Bytes of one group's quants in a block."""
        return ROWS_PER_BLOCK * self.group * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of a block's scales for one group."""
        return ROWS_PER_BLOCK * (2 if self.scale == "f16" else 4)

    @property
    def group_bytes(self) -> int:
        """Bytes of one group in a block: quants, scales, minimums."""
        return self.quant_bytes + self.scale_bytes * (2 if self.minimum else 1)

    def depth(self, columns: int) -> int:
        """Steps of the inner loop: one a group. Columns are padded to a multiple of 32."""
        return padded(columns, 32) // self.group

    def block_bytes(self, columns: int) -> int:
        """Bytes of a block."""
        return self.depth(columns) * self.group_bytes


Layout = FloatLayout | IntLayout

# What each number format becomes, and its zero. Scales stay in 16 bits where they are exact there;
# the K-quants' scales are products of a half and a 6-bit integer, so they need float32.
LAYOUTS: dict[str, tuple[Layout, int]] = {
    "F32": (FloatLayout("f32"), 0),
    "F16": (FloatLayout("f16"), 0),
    "BF16": (FloatLayout("bf16"), 0),
    "Q4_0": (IntLayout(4, 32, False, "f16"), 8),
    "Q4_1": (IntLayout(4, 32, True, "f16"), 0),
    "Q5_0": (IntLayout(8, 32, False, "f16"), 128),
    "Q5_1": (IntLayout(8, 32, True, "f16"), 0),
    "Q8_0": (IntLayout(8, 32, False, "f16"), 128),
    "Q2_K": (IntLayout(4, 16, True, "f32"), 0),
    "Q3_K": (IntLayout(4, 16, False, "f32"), 4),
    "Q4_K": (IntLayout(4, 32, True, "f32"), 0),
    "Q5_K": (IntLayout(8, 32, True, "f32"), 0),
    "Q6_K": (IntLayout(8, 16, False, "f32"), 128),
    "IQ4_NL": (IntLayout(8, 32, False, "f16"), 128),
    "IQ4_XS": (IntLayout(8, 32, False, "f32"), 128),
    "MXFP4": (IntLayout(8, 32, False, "f32"), 128),
}


def padded(size: int, multiple: int) -> int:
    """`size`, rounded up to a multiple."""
    return -(-size // multiple) * multiple


def packed_bytes(layout: Layout, rows: int, columns: int) -> int:
    """Bytes of a packed matrix; rows are padded to whole blocks."""
    return padded(rows, ROWS_PER_BLOCK) // ROWS_PER_BLOCK * layout.block_bytes(columns)


def pack_into(destination: Bytes, matrix: Matrix, first_row: int = 0, end_row: int | None = None) -> None:
    """Packs rows `first_row … end_row - 1` of a matrix, in canonical order.

    Args:
        destination: uint8, `packed_bytes` long; every byte is written.
        matrix: The matrix as the file has it.
        first_row: Where to start; a fused matrix is packed in parts.
        end_row: Where to end, or None for all.
    """
    layout, zero = LAYOUTS[matrix.format.name]
    end = matrix.rows if end_row is None else end_row
    block_bytes = layout.block_bytes(matrix.columns)
    # A few hundred blocks at a time: the working copies stay in the cache and memory stays bounded.
    blocks_at_once = max(1, (1 << 20) // (ROWS_PER_BLOCK * max(matrix.columns, 1)))
    for block in range(0, padded(end - first_row, ROWS_PER_BLOCK) // ROWS_PER_BLOCK, blocks_at_once):
        start = first_row + block * ROWS_PER_BLOCK
        stop = min(start + blocks_at_once * ROWS_PER_BLOCK, end)
        rows = (
            matrix.data[start:stop] if matrix.row_order is None else matrix.data[matrix.row_order[start:stop]]
        )
        count = padded(stop - start, ROWS_PER_BLOCK) // ROWS_PER_BLOCK
        part = destination[block * block_bytes : (block + count) * block_bytes].reshape(count, block_bytes)
        if isinstance(layout, FloatLayout):
            _pack_float(part, rows, layout, matrix.columns)
        else:
            _pack_groups(part, groups(rows, matrix.format, matrix.columns), layout, zero)


def _pack_float(part: Bytes, rows: Bytes, layout: FloatLayout, columns: int) -> None:
    """Rows of numbers, transposed."""
    element = np.dtype(np.float32) if layout.element == "f32" else np.dtype(np.uint16)
    numbers = np.ascontiguousarray(rows).view(element).reshape(len(rows), columns)
    full = _whole_blocks(numbers).reshape(len(part), ROWS_PER_BLOCK, columns)
    part.view(element).reshape(len(part), columns, ROWS_PER_BLOCK)[...] = full.transpose(0, 2, 1)


def _pack_groups(part: Bytes, source: Groups, layout: IntLayout, zero: int) -> None:
    """Quants four inputs deep, then scales, then minimums, group by group."""
    count, depth = len(part), part.shape[1] // layout.group_bytes
    columns = depth * layout.group
    # Rows and columns that pad the matrix get scale 0 and minimum 0, so their quants do not matter.
    quants = np.zeros((count * ROWS_PER_BLOCK, columns), np.uint8)
    np.add(
        source.quants, zero, out=quants[: len(source.quants), : source.quants.shape[1]], casting="unsafe",
        dtype=np.int16,
    )  # fmt: skip
    quads = quants.view(np.uint32).reshape(count, ROWS_PER_BLOCK, depth, layout.group // 4)
    if layout.bits == 4:
        quads = np.bitwise_or(quads[..., 0::2], quads[..., 1::2] << np.uint32(4))
    stream = part.reshape(count, depth, layout.group_bytes)
    end = layout.quant_bytes
    target = stream[..., :end].view(np.uint32).reshape(count, depth, quads.shape[3], ROWS_PER_BLOCK)
    target[...] = quads.transpose(0, 2, 3, 1)  # rows innermost: 16, then the other 16
    number = np.dtype(np.float16 if layout.scale == "f16" else np.float32)
    for values in (source.scales, source.minimums):
        if values is None:
            continue
        full = np.zeros((count * ROWS_PER_BLOCK, depth), np.float32)
        full[: len(values), : values.shape[1]] = values
        place = stream[..., end : end + layout.scale_bytes].view(number)
        place[...] = full.reshape(count, ROWS_PER_BLOCK, depth).transpose(0, 2, 1)
        end += layout.scale_bytes


def _whole_blocks(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Rows, padded with zeros to whole blocks."""
    missing = -len(rows) % ROWS_PER_BLOCK
    if not missing:
        return rows
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]), rows.dtype)])


def unpacked(packed: Bytes, layout: Layout, zero: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """What a packed matrix says, as float32 `[rows, columns]`: the oracle of the packers and kernels."""
    count = padded(rows, ROWS_PER_BLOCK) // ROWS_PER_BLOCK
    if isinstance(layout, FloatLayout):
        kind = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[layout.element]
        values = packed.view(kind).reshape(count, columns, ROWS_PER_BLOCK).transpose(0, 2, 1)
        if layout.element == "bf16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(values.reshape(-1, columns)[:rows].astype(np.float32))
    depth = layout.depth(columns)
    stream = packed.reshape(count, depth, layout.group_bytes)
    quads = np.ascontiguousarray(stream[..., : layout.quant_bytes]).reshape(
        count, depth, -1, ROWS_PER_BLOCK, 4
    )
    if layout.bits == 4:
        quads = np.stack([quads & 15, quads >> 4], axis=3).reshape(count, depth, -1, ROWS_PER_BLOCK, 4)
    quants = quads.transpose(0, 3, 1, 2, 4).reshape(count * ROWS_PER_BLOCK, depth, layout.group)
    number = np.float16 if layout.scale == "f16" else np.float32
    tail = np.ascontiguousarray(stream[..., layout.quant_bytes :]).view(number).astype(np.float32)
    scales = tail[..., :ROWS_PER_BLOCK].transpose(0, 2, 1).reshape(-1, depth, 1)
    result = scales * (quants.astype(np.float32) - np.float32(zero))
    if layout.minimum:
        result = result + tail[..., ROWS_PER_BLOCK:].transpose(0, 2, 1).reshape(-1, depth, 1)
    return np.ascontiguousarray(result.reshape(count * ROWS_PER_BLOCK, -1)[:rows, :columns], np.float32)


__all__ = [
    "LAYOUTS",
    "FloatLayout",
    "IntLayout",
    "Layout",
    "pack_into",
    "packed_bytes",
    "padded",
    "unpacked",
]
