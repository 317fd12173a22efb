"""The compiled matrix products against NumPy, and their promise of one arithmetic per row."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from boli.cpu import compiler
from boli.cpu.layouts import LAYOUTS, IntLayout, pack_into, packed_bytes, padded
from boli.cpu.packing import look_up_unit, project_unit
from boli.formats.numbers import dequantize
from cpu.test_layouts import random_matrix

COLUMNS, ROWS = 512, 112  # three blocks and a half


def quantized(activations: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The kernel's int8 rows, made by NumPy, and the numbers that they stand for."""
    rows, columns = activations.shape
    grouped = activations.reshape(rows, columns // 32, 32)
    largest = np.abs(grouped).max(axis=2, keepdims=True)
    scales = (largest / np.float32(127)).astype(np.float32)
    q = np.rint(grouped * (np.float32(127) / largest)).astype(np.int8)
    parts = [q.reshape(rows, columns).view(np.uint8)]
    for group in (32, 16):
        sums = q.reshape(rows, columns // group, group).sum(axis=2, dtype=np.int32)
        s = np.repeat(scales[..., 0], 32 // group, axis=1)
        parts += [s.view(np.uint8), sums.view(np.uint8), (s * sums.astype(np.float32)).view(np.uint8)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1)), (q * scales).reshape(rows, columns)


def project(name: str, activations: NDArray[np.float32], matrix_rows: int = ROWS) -> NDArray[np.float32]:
    """The compiled product of a random matrix of a format with some rows of activations."""
    matrix = random_matrix(name, matrix_rows, COLUMNS)
    layout, zero = LAYOUTS[name]
    packed = np.empty(packed_bytes(layout, matrix_rows, COLUMNS), np.uint8)
    pack_into(packed, matrix)
    (function,) = compiler.load([project_unit(layout)])
    inputs: NDArray[np.uint8] = activations.view(np.uint8)
    meta = 0
    if isinstance(layout, IntLayout):
        inputs, _ = quantized(activations)
        meta = COLUMNS + (COLUMNS // 32 * 12 if layout.group == 16 else 0)
    width = padded(matrix_rows, 32)
    y = np.full((len(activations), width), np.nan, np.float32)
    start = inputs.ctypes.data
    function(
        packed.ctypes.data, layout.block_bytes(COLUMNS), layout.depth(COLUMNS), zero, start, start + meta,
        inputs.strides[0], y.ctypes.data, width * 4, len(y), 0, width // 32, 0,
    )  # fmt: skip
    return y[:, :matrix_rows]


@pytest.fixture(scope="module")
def activations() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((9, COLUMNS)).astype(np.float32)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_product_is_numpys(name: str, activations: NDArray[np.float32]) -> None:
    """Integer sums are exact and the rest is a few hundred roundings of float32."""
    matrix = random_matrix(name, ROWS, COLUMNS)
    weights = dequantize(matrix.data, matrix.format, COLUMNS).astype(np.float64)
    inputs = quantized(activations)[1] if isinstance(LAYOUTS[name][0], IntLayout) else activations
    expected = inputs.astype(np.float64) @ weights.T
    magnitude = np.abs(inputs).astype(np.float64) @ np.abs(weights).T
    assert (np.abs(project(name, activations) - expected) < 1e-5 * magnitude).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_does_not_depend_on_how_many_rows_there_are(
    name: str, activations: NDArray[np.float32]
) -> None:
    together = project(name, activations)
    for count in (1, 2, 3, 4, 7):
        np.testing.assert_array_equal(project(name, activations[:count].copy()), together[:count])


@pytest.mark.parametrize("name", LAYOUTS)
def test_looking_up_a_row_gives_its_numbers(name: str) -> None:
    matrix = random_matrix(name, 40, COLUMNS)
    layout, zero = LAYOUTS[name]
    packed = np.empty(packed_bytes(layout, 40, COLUMNS), np.uint8)
    pack_into(packed, matrix)
    (function,) = compiler.load([look_up_unit(layout)])
    expected = dequantize(matrix.data, matrix.format, COLUMNS)
    for row in (0, 15, 16, 39):
        found = np.empty(COLUMNS, np.float32)
        function(packed.ctypes.data, layout.block_bytes(COLUMNS), COLUMNS, zero, row, found.ctypes.data)
        np.testing.assert_array_equal(found, expected[row])


def test_the_portable_form_gives_the_same_bits(activations: NDArray[np.float32]) -> None:
    """Integers are exact, so another instruction set changes nothing; in a process of its own."""
    code = (
        "import sys, numpy as np; from cpu.test_matmul import project; "
        "a = np.load(sys.argv[1]); np.save(sys.argv[2], np.stack([project(n, a) for n in ('Q4_1', 'Q6_K')]))"
    )
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "in.npy"), Path(folder, "out.npy")
        np.save(given, activations)
        environment = {**os.environ, "BOLI_SIMD": "portable", "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run([sys.executable, "-c", code, given, result], env=environment, check=True)
        portable = np.load(result)
    np.testing.assert_array_equal(portable[0], project("Q4_1", activations))
    np.testing.assert_array_equal(portable[1], project("Q6_K", activations))
