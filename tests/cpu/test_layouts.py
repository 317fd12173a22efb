"""Packing loses nothing: a packed matrix says, bit for bit, what the file said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boli.cpu.layouts import LAYOUTS, packed_bytes
from boli.cpu.packers import pack_into, unpacked
from boli.formats.checkpoint import Matrix
from boli.formats.numbers import dequantize
from boli.formats.table import FORMATS


def random_matrix(name: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    """Bytes that decode to finite numbers of ordinary size."""
    fmt = FORMATS[name]
    rng = np.random.default_rng(seed)
    if name in ("F32", "F16", "BF16"):
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        if name == "BF16":
            raw: Any = (values.view(np.uint32) >> 16).astype(np.uint16)
        else:
            raw = values.astype(np.float16) if name == "F16" else values
        return Matrix(fmt, rows, columns, np.ascontiguousarray(raw).view(np.uint8).reshape(rows, -1))
    import gguf

    values = (rng.standard_normal((rows, columns)) * 0.5).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    try:
        data = gguf.quantize(values, kind)
    except NotImplementedError:
        # gguf cannot write this type: random blocks, with scales that stay finite.
        data = rng.integers(0, 256, (rows, fmt.nbytes(columns)), dtype=np.uint8)
        tame_scales(data, name)
    return Matrix(fmt, rows, columns, data)


def tame_scales(data: np.ndarray, name: str) -> None:
    """Sets the half-precision scales in random blocks to small finite numbers."""
    places = {
        "Q2_K": (80, 82),
        "Q3_K": (108,),
        "Q4_K": (0, 2),
        "Q5_K": (0, 2),
        "Q6_K": (208,),
        "IQ4_NL": (0,),
    }
    places |= {"IQ4_XS": (0,), "MXFP4": ()}
    fmt = FORMATS[name]
    blocks = data.reshape(-1, fmt.block_bytes)
    for place in places[name]:
        blocks[:, place : place + 2] = np.array([0.01], np.float16).view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = 120 + blocks[:, 0] % 8


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 256), (40, 512), (7, 768)])
def test_a_packed_matrix_holds_the_same_numbers(name: str, rows: int, columns: int) -> None:
    matrix = random_matrix(name, rows, columns)
    layout = LAYOUTS[name]
    packed = np.full(packed_bytes(layout, rows, columns), 0xAB, np.uint8)
    pack_into(packed.reshape(-1, layout.block_bytes(columns)), matrix)
    expected = dequantize(matrix.data, matrix.format, columns)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(unpacked(packed, layout, rows, columns), expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_packed_matrix_has_the_files_number_of_bits(name: str) -> None:
    """To the byte; K-quants and IQ4_XS have a byte where the file has a scale of 4 or 6 bits."""
    in_file, packed = 64 * FORMATS[name].nbytes(768), packed_bytes(LAYOUTS[name], 64, 768)
    rounded = {"Q2_K": 25 / 21, "Q3_K": 114 / 110, "Q4_K": 148 / 144, "Q5_K": 180 / 176, "IQ4_XS": 138 / 136}
    assert packed == pytest.approx(in_file * rounded.get(name, 1), rel=1e-12)


@pytest.mark.parametrize("name", ["F32", "Q4_1", "Q6_K", "MXFP4"])
def test_parts_and_row_orders_are_packed_as_asked(name: str) -> None:
    matrix = random_matrix(name, 48, 256)
    order = np.random.default_rng(1).permutation(48).astype(np.int32)
    shuffled = Matrix(matrix.format, 48, 256, matrix.data, order)
    layout = LAYOUTS[name]
    packed = np.empty(packed_bytes(layout, 20, 256), np.uint8)
    pack_into(packed.reshape(-1, layout.block_bytes(256)), shuffled, 10, 30)
    expected = dequantize(matrix.data[order[10:30]], matrix.format, 256)
    np.testing.assert_array_equal(unpacked(packed, layout, 20, 256), expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_may_lie_apart(name: str) -> None:
    matrix, layout = random_matrix(name, 72, 512), LAYOUTS[name]
    block_bytes = layout.block_bytes(512)
    room = np.full((3, 2, block_bytes), 0xAB, np.uint8)
    pack_into(room[:, 1], matrix)
    together = np.ascontiguousarray(room[:, 1]).reshape(-1)
    expected = dequantize(matrix.data, matrix.format, 512)
    np.testing.assert_array_equal(unpacked(together, layout, 72, 512), expected)
    assert (room[:, 0] == 0xAB).all()


def test_odd_sizes_are_padded_with_zeros() -> None:
    matrix = random_matrix("F32", 5, 172)
    layout = LAYOUTS["F32"]
    packed = np.full(packed_bytes(layout, 5, 172), 0xAB, np.uint8)
    pack_into(packed.reshape(-1, layout.block_bytes(172)), matrix)
    assert not unpacked(packed, layout, 16, 172)[5:].any()
