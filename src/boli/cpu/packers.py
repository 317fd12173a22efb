"""Puts a file's rows into the layouts of `layouts.py`, in NumPy, and reads them back for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boli.cpu.layouts import (
    GROUP,
    LAYOUTS,
    QUADS,
    ROWS_PER_BLOCK,
    SUPER,
    FloatLayout,
    IntLayout,
    Layout,
    PairLayout,
    padded,
)
from boli.formats.numbers import Groups, factors, groups
from boli.formats.table import CODEBOOKS

if TYPE_CHECKING:
    from boli.formats.checkpoint import Matrix

Bytes = npt.NDArray[np.uint8]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]

_NUMBER = {"f16": np.float16, "f32": np.float32, "i8": np.int8, "u8": np.uint8, "e8": np.uint8}


def pack_into(destination: Bytes, matrix: Matrix, first_row: int = 0, end_row: int | None = None) -> None:
    """Packs rows `first_row … end_row - 1` of a matrix, in canonical order.

    Args:
        destination: uint8 `[blocks, block_bytes]`; blocks may lie apart. Every byte is written.
        matrix: The matrix as the file has it.
        first_row: Where to start; a fused matrix is packed in parts.
        end_row: Where to end, or None for all.
    """
    layout = LAYOUTS[matrix.format.name]
    end = matrix.rows if end_row is None else end_row
    # A few hundred blocks at a time: the working copies stay in the cache and memory stays bounded.
    blocks_at_once = max(1, (1 << 20) // (ROWS_PER_BLOCK * max(matrix.columns, 1)))
    for block in range(0, padded(end - first_row, ROWS_PER_BLOCK) // ROWS_PER_BLOCK, blocks_at_once):
        start = first_row + block * ROWS_PER_BLOCK
        stop = min(start + blocks_at_once * ROWS_PER_BLOCK, end)
        rows = (
            matrix.data[start:stop] if matrix.row_order is None else matrix.data[matrix.row_order[start:stop]]
        )
        part = destination[block : block + padded(stop - start, ROWS_PER_BLOCK) // ROWS_PER_BLOCK]
        if isinstance(layout, FloatLayout):
            _pack_floats(part, rows, layout, matrix.columns)
        elif isinstance(layout, PairLayout):
            _pack_pairs(part, rows, matrix.columns)
        else:
            halves = factors(rows, matrix.format, matrix.columns) if layout.has_factor else None
            _pack_groups(part, groups(rows, matrix.format, matrix.columns), halves, layout)


def _pack_floats(part: Bytes, rows: Bytes, layout: FloatLayout, columns: int) -> None:
    """Rows of numbers, transposed."""
    element = np.dtype(np.float32) if layout.element == "f32" else np.dtype(np.uint16)
    numbers = _whole(np.ascontiguousarray(rows).view(element), len(part), layout.depth(columns))
    part.view(element).reshape(len(part), -1, ROWS_PER_BLOCK)[...] = numbers.transpose(0, 2, 1)


def _pack_pairs(part: Bytes, rows: Bytes, columns: int) -> None:
    """Rows of bfloat16 numbers, transposed two by two."""
    numbers = _whole(np.ascontiguousarray(rows).view(np.uint16), len(part), padded(columns, GROUP))
    part.view(np.uint32).reshape(len(part), -1, ROWS_PER_BLOCK)[...] = numbers.view(np.uint32).transpose(
        0, 2, 1
    )


def _pack_groups(part: Bytes, source: Groups, halves: Float16 | None, layout: IntLayout) -> None:
    """Quants four inputs deep, their planes, scales, minimums: step by step."""
    count, depth = len(part), layout.depth(source.quants.shape[1])
    # Rows and columns that pad the matrix get scale 0 and minimum 0, so their quants do not matter.
    unsigned = source.quants.view(np.uint8)
    if layout.codebook:
        unsigned = _codes(layout.codebook)[unsigned]
    elif layout.zero:
        unsigned = unsigned + np.uint8(layout.zero)  # modulo 256, as in C
    quads = _whole(unsigned, count, depth * GROUP).view(np.uint32)
    quads = quads.reshape(count, ROWS_PER_BLOCK, depth, QUADS)
    runs = part.reshape(count, depth // SUPER if halves is not None else depth, -1)
    # [blocks, runs, steps of a run, bytes], a view
    steps = runs[..., layout.factor_bytes :].reshape(*runs.shape[:2], -1, layout.step_bytes)

    def put(start: int, values: npt.NDArray[Any]) -> int:
        """Stores `[blocks, 32 rows, depth, n]`, rows innermost, into the steps."""
        size = int(values.shape[3] * ROWS_PER_BLOCK * values.itemsize)
        place = steps[..., start : start + size].view(values.dtype)
        place = place.reshape(*steps.shape[:3], values.shape[3], ROWS_PER_BLOCK)
        ordered = values.transpose(0, 2, 3, 1)
        place[...] = ordered.reshape(place.shape)
        return start + size

    per_byte, mask = 8 // layout.base, np.uint32(0x01010101 * ((1 << layout.base) - 1))
    packed = quads if per_byte == 1 else quads[..., 0::per_byte] & mask
    for field in range(1, per_byte):
        packed |= (quads[..., field::per_byte] & mask) << np.uint32(field * layout.base)
    end = put(0, packed)
    for plane in range(layout.planes):
        bits = (quads >> np.uint32(layout.base + plane)) & np.uint32(0x01010101)
        # One bit of each of four bytes, side by side; two rows' share a byte.
        nibbles = ((bits * np.uint32(0x10204080)) >> np.uint32(28)).astype(np.uint8)
        pairs = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        size = QUADS * ROWS_PER_BLOCK // 2
        place = steps[..., end : end + size].reshape(*steps.shape[:3], QUADS, ROWS_PER_BLOCK // 2)
        place[...] = pairs.transpose(0, 2, 3, 1).reshape(place.shape)
        end += size
    numbers = [source.scales] if source.minimums is None else [source.scales, source.minimums]
    if halves is not None:
        numbers = [_integers(*pair) for pair in zip(numbers, (halves[0], -halves[-1]), strict=False)]
        full = np.stack([_whole(half, count, runs.shape[1]) for half in halves], axis=1)
        in_front = np.ascontiguousarray(full.transpose(0, 3, 1, 2)).view(np.uint8)
        runs[..., : layout.factor_bytes] = in_front.reshape(count, runs.shape[1], -1)
    if layout.scale == "e8":
        numbers = [np.frexp(values)[1] + 127 for values in numbers]  # 2^n is 0.5 * 2^(n + 1)
    for values in numbers:
        full = _whole(values.astype(_NUMBER[layout.scale]), count, depth * layout.parts)
        end = put(end, full.reshape(count, ROWS_PER_BLOCK, depth, layout.parts))


def _codes(codebook: str) -> Bytes:
    """For each signed byte, seen as unsigned, the first code that means it."""
    codes = np.zeros(256, np.uint8)
    for code, value in reversed([*enumerate(CODEBOOKS[codebook])]):
        codes[value] = code  # a negative index counts from the end, as two's complement does
    return codes


def _integers(products: Float32, half: Float16) -> Float32:
    """What a factor was multiplied with: a product rounded to float32 gives a small integer back."""
    factor = np.repeat(half.astype(np.float32), products.shape[1] // half.shape[1], axis=1)
    return np.rint(np.divide(products, factor, out=np.zeros_like(products), where=factor != 0))


def _whole(rows: npt.NDArray[Any], blocks: int, columns: int) -> npt.NDArray[Any]:
    """Rows, padded with zeros to whole blocks and to `columns`: `[blocks, 32, columns]`."""
    if rows.shape == (blocks * ROWS_PER_BLOCK, columns):
        return rows.reshape(blocks, ROWS_PER_BLOCK, columns)
    full = np.zeros((blocks * ROWS_PER_BLOCK, columns), rows.dtype)
    full[: len(rows), : rows.shape[1]] = rows
    return full.reshape(blocks, ROWS_PER_BLOCK, columns)


def unpacked(packed: Bytes, layout: Layout, rows: int, columns: int) -> Float32:
    """What a packed matrix says, as float32 `[rows, columns]`: the oracle of the packers and kernels."""
    count = padded(rows, ROWS_PER_BLOCK) // ROWS_PER_BLOCK
    if isinstance(layout, IntLayout):
        values = _unpacked_groups(packed.reshape(count, -1), layout, layout.depth(columns))
    elif isinstance(layout, PairLayout):
        pairs = packed.view(np.uint16).reshape(count, -1, ROWS_PER_BLOCK, 2).transpose(0, 2, 1, 3)
        values = (pairs.astype(np.uint32) << 16).view(np.float32)
    else:
        kind = np.float32 if layout.element == "f32" else np.float16
        values = packed.view(kind).reshape(count, -1, ROWS_PER_BLOCK).transpose(0, 2, 1).astype(np.float32)
    return np.ascontiguousarray(values.reshape(count * ROWS_PER_BLOCK, -1)[:rows, :columns])


def _unpacked_groups(blocks: Bytes, layout: IntLayout, depth: int) -> Float32:
    """`[blocks, 32, columns]`."""
    count, factor = len(blocks), np.ones((1, 1, 1, 1), np.float32)
    if layout.has_factor:
        runs = blocks.reshape(count, depth // SUPER, -1)
        halves = np.ascontiguousarray(runs[..., : layout.factor_bytes]).view(np.float16).astype(np.float32)
        factor = np.repeat(halves.reshape(count, -1, layout.columns, ROWS_PER_BLOCK), SUPER, axis=1)
        blocks = np.ascontiguousarray(runs[..., layout.factor_bytes :])
    steps = blocks.reshape(count, depth, layout.step_bytes)
    end = layout.quant_bytes
    lines = steps[..., :end].reshape(count, depth, -1, 1, ROWS_PER_BLOCK, 4)
    shifts = np.arange(0, 8, layout.base, dtype=np.uint8).reshape(1, 1, 1, -1, 1, 1)
    quants = ((lines >> shifts) & ((1 << layout.base) - 1)).reshape(count, depth, QUADS, ROWS_PER_BLOCK, 4)
    for plane in range(layout.planes):
        size = layout.plane_bytes // layout.planes
        bits = np.unpackbits(steps[..., end : end + size], axis=-1, bitorder="little")
        quants |= bits.reshape(quants.shape) << (layout.base + plane)
        end += size
    shape = count, depth, layout.columns, layout.parts, ROWS_PER_BLOCK
    numbers = np.ascontiguousarray(steps[..., end:]).view(_NUMBER[layout.scale]).reshape(shape)
    products = numbers.astype(np.float32) * factor[:, :, :, None]
    if layout.scale == "e8":
        products = np.ldexp(np.float32(1), numbers.astype(np.int32) - 128)
    if layout.codebook:
        quants = np.array(layout.values, np.uint8)[quants]
    grouped = quants.astype(np.float32).reshape(count, depth, layout.parts, -1, ROWS_PER_BLOCK, 4)
    values = (grouped - np.float32(layout.zero)) * products[:, :, 0, :, None, :, None]
    if layout.minimum:
        sign = -1 if layout.has_factor else 1
        values = values + np.float32(sign) * products[:, :, 1, :, None, :, None]
    return values.transpose(0, 4, 1, 2, 3, 5).reshape(count, ROWS_PER_BLOCK, -1)
