"""Rows of activations as streams, against NumPy: all three encodings, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from boli.cpu import compiler
from boli.cpu import plan as p
from boli.cpu.sizes import stream_bytes
from cpu.test_matmul import encoded, tiles

COLUMNS = 96


def source() -> Callable[..., Any]:
    from boli.cpu.activations import encode

    def encode_rows(table: int, wanted: int, rows: int, values: int, columns: int) -> int:
        for row in range(rows):
            encode(table, wanted, row, rows, values + row * columns * 4, columns, 0, columns // 32)
        return 0

    return encode_rows


@pytest.mark.parametrize("rows", [1, 3, 5, 6, 17])
def test_streams_are_numpys(rows: int) -> None:
    """Also -Σ a of both halves of a group, which only formats with groups of 16 read."""
    [encode_rows] = compiler.load([compiler.Unit("encode_rows_in_a_test", 5, source)])
    values = np.random.default_rng(rows).standard_normal((rows, COLUMNS)).astype(np.float32)
    streams = {name: np.zeros(rows * stream_bytes(name, COLUMNS), np.uint8) for name in p.ENCODINGS}
    table = np.array([streams[name].ctypes.data for name in sorted(streams, key=p.ENCODINGS.__getitem__)])
    encode_rows(table.ctypes.data, 0b111, rows, values.ctypes.data, COLUMNS)
    starts = np.cumsum([0, *tiles(rows)])
    for name, stream in streams.items():
        parts = [encoded(values[start:end], name)[0] for start, end in pairwise(starts)]
        expected = np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])
        np.testing.assert_array_equal(stream[: expected.size], expected)
        assert not stream[expected.size :].any()
