"""The compiled matrix products against NumPy, and their promise of one arithmetic per row."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boli.cpu import compiler, target
from boli.cpu.layouts import LAYOUTS, IntLayout, packed_bytes, padded
from boli.cpu.packers import pack_into
from boli.cpu.packing import look_up_unit, project_unit
from boli.cpu.sizes import streams_bytes
from boli.formats.checkpoint import Matrix
from boli.formats.numbers import dequantize
from cpu.test_layouts import random_matrix

COLUMNS, ROWS = 512, 112  # three blocks and a half


def quantized(activations: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The kernel's int8 records `[groups, rows, 48]`, made by NumPy, and the numbers they stand for."""
    rows, columns = activations.shape
    grouped = activations.reshape(rows, columns // 32, 32).transpose(1, 0, 2)
    largest = np.abs(grouped).max(axis=2, keepdims=True)
    scales = largest * np.float32(1 / 127)
    q = np.rint(grouped * (np.float32(127) / largest)).astype(np.int8)
    sums = q.sum(axis=2, dtype=np.int32, keepdims=True)
    halves = q.reshape(*q.shape[:2], 2, 16).sum(axis=3, dtype=np.int32)
    parts = [q, scales, -sums, scales * sums.astype(np.float32), (-halves).astype(np.int16)]
    records = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=2)
    return records, (q * scales).transpose(1, 0, 2).reshape(rows, columns)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def encoded(activations: NDArray[np.float32], encoding: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """A tile of rows in an encoding, and the numbers that it stands for."""
    if encoding == "int8":
        return quantized(activations)
    if encoding == "float32":
        return np.ascontiguousarray(activations.T), activations
    short = to_bf16(activations)
    rounded = (short.astype(np.uint32) << 16).view(np.float32)
    rows, columns = activations.shape
    together = 32 if target.tile_registers() else 2  # inputs of a row
    numbers: NDArray[Any] = short if target.bf16_form() in target.PAIR_FORMS else rounded
    tile = np.ascontiguousarray(numbers.reshape(rows, columns // together, together).transpose(1, 0, 2))
    return tile, rounded


def tiles(rows: int) -> list[int]:
    """How a step's rows are cut into tiles."""
    if rows <= 4:
        return [rows]
    cut = [6] * (rows // 6)
    left = rows % 6
    return cut + [size for size in (4, 2, 1) if left & size and (size != 2 or left < 4)]


def in_a_step(unit: compiler.Unit) -> compiler.Unit:
    """A kernel with tile registers as it finds them in a step."""

    def source() -> Any:
        from boli.cpu.amx import begin, end
        from boli.cpu.simd import kernel

        inner = kernel(unit.source())

        def run(a, b, c, d, e, f, g, h, i, j, k, l):  # type: ignore[no-untyped-def]  # noqa: E741
            begin()
            inner(a, b, c, d, e, f, g, h, i, j, k, l)
            end()

        return run

    return compiler.Unit(f"{unit.name}_in_a_step", unit.arguments, source)


def project(
    name: str,
    activations: NDArray[np.float32],
    matrix_rows: int = ROWS,
    unit: compiler.Unit | None = None,
) -> NDArray[np.float32]:
    """The compiled product of a random matrix of a format with some rows of activations."""
    matrix = random_matrix(name, matrix_rows, COLUMNS)
    layout = LAYOUTS[name]
    packed = np.empty(packed_bytes(layout, matrix_rows, COLUMNS), np.uint8)
    pack_into(packed.reshape(-1, layout.block_bytes(COLUMNS)), matrix)
    (function,) = compiler.load([in_a_step(unit or project_unit(layout))])
    starts = np.cumsum([0, *tiles(len(activations))])
    parts = [encoded(activations[start:end], layout.encoding)[0] for start, end in pairwise(starts)]
    inputs = np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])
    behind = streams_bytes(layout.encoding, len(activations), COLUMNS) - inputs.size
    inputs = np.concatenate([inputs, np.full(behind, 0xFF, np.uint8)])  # NaN, which must not matter
    width = padded(matrix_rows, 32)
    y = np.full((len(activations), width), np.nan, np.float32)
    steps = layout.depth(COLUMNS) * layout.panel.step_bytes if isinstance(layout, IntLayout) else 0
    panel = np.full(steps, 0xAB, np.uint8)
    function(
        packed.ctypes.data, layout.block_bytes(COLUMNS), layout.depth(COLUMNS), inputs.ctypes.data,
        y.ctypes.data, width * 4, 0, len(y), 0, width // 32, 0, panel.ctypes.data,
    )  # fmt: skip
    return y[:, :matrix_rows]


@pytest.fixture(scope="module")
def activations() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((59, COLUMNS)).astype(np.float32)


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "BF16", "F16"])
def test_what_is_fetched_ahead_changes_no_bit(
    name: str, activations: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this processor does by itself."""
    from boli.cpu import matmul

    found = []
    for by_itself in (True, False):
        monkeypatch.setattr(matmul, "fetches_by_itself", lambda answer=by_itself: answer)
        source = partial(matmul.project, LAYOUTS[name])
        unit = compiler.Unit(
            f"project_{name}_{by_itself}_in_a_test", project_unit(LAYOUTS[name]).arguments, source
        )
        found.append([project(name, activations[:rows], unit=unit) for rows in (1, 2, 5, 8, 16, 17, 59)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.view(np.int32), other.view(np.int32))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_product_is_numpys(name: str, activations: NDArray[np.float32]) -> None:
    """Integer sums are exact and the rest is a few hundred roundings of float32."""
    matrix = random_matrix(name, ROWS, COLUMNS)
    weights = dequantize(matrix.data, matrix.format, COLUMNS).astype(np.float64)
    inputs = encoded(activations, LAYOUTS[name].encoding)[1]
    expected = inputs.astype(np.float64) @ weights.T
    magnitude = np.abs(inputs).astype(np.float64) @ np.abs(weights).T
    assert (np.abs(project(name, activations) - expected) < 1e-5 * magnitude).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_does_not_depend_on_how_many_rows_there_are(
    name: str, activations: NDArray[np.float32]
) -> None:
    together = project(name, activations)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 47, 48):
        np.testing.assert_array_equal(project(name, activations[:count].copy()), together[:count])


# Codebook formats as bytes: what the codes choose, with the scales that the file has.
AS_BYTES = {
    "IQ4_NL": IntLayout(8, 32, False, "f16", 128),
    "IQ4_XS": IntLayout(8, 32, False, "i8", 128),
    "MXFP4": IntLayout(8, 32, False, "f32", 128),
}


@pytest.mark.parametrize("name", AS_BYTES)
def test_codes_give_the_same_bits_as_the_bytes_that_they_choose(
    name: str, activations: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = (1, 2, 3, 4, 6, 17, 59)
    codes = [project(name, activations[:count].copy()) for count in counts]
    monkeypatch.setitem(LAYOUTS, name, AS_BYTES[name])
    for count, found in zip(counts, codes, strict=True):
        expected = project(name, activations[:count].copy())
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("name", LAYOUTS)
def test_looking_up_a_row_gives_its_numbers(name: str) -> None:
    look_up_rows(random_matrix(name, 40, COLUMNS), [0, 15, 16, 39])


def test_every_power_of_two_is_exact() -> None:
    """All 253 scales of MXFP4 that leave its numbers finite, subnormal ones too."""
    matrix = random_matrix("MXFP4", 32, COLUMNS)
    blocks = matrix.data.reshape(-1, matrix.format.block_bytes)
    blocks[:, 0] = np.arange(len(blocks)) % 253
    look_up_rows(matrix, list(range(32)))


def look_up_rows(matrix: Matrix, rows: list[int]) -> None:
    """Looks rows of a matrix up and compares them with what the file says."""
    layout = LAYOUTS[matrix.format.name]
    packed = np.empty(packed_bytes(layout, matrix.rows, COLUMNS), np.uint8)
    pack_into(packed.reshape(-1, layout.block_bytes(COLUMNS)), matrix)
    (function,) = compiler.load([look_up_unit(layout)])
    expected = dequantize(matrix.data, matrix.format, COLUMNS)
    panel = np.empty(COLUMNS // 32 * 2048, np.uint8)
    for row in rows:
        found = np.empty(COLUMNS, np.float32)
        function(
            packed.ctypes.data, layout.block_bytes(COLUMNS), layout.depth(COLUMNS), row, COLUMNS,
            found.ctypes.data, panel.ctypes.data,
        )  # fmt: skip
        np.testing.assert_array_equal(found, expected[row])


def test_the_portable_form_gives_the_same_bits(activations: NDArray[np.float32]) -> None:
    """Integers are exact, so another instruction set changes nothing; in a process of its own."""
    code = (
        "import sys, numpy as np; from cpu.test_matmul import project; "
        "a = np.load(sys.argv[1]); np.save(sys.argv[2], np.stack([project(n, a) for n in sys.argv[3:]]))"
    )
    import tempfile
    from pathlib import Path

    names = ("Q4_1", "Q6_K", "IQ4_XS", "MXFP4")
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "in.npy"), Path(folder, "out.npy")
        np.save(given, activations)
        environment = {**os.environ, "BOLI_SIMD": "portable", "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run([sys.executable, "-c", code, given, result, *names], env=environment, check=True)
        portable = np.load(result)
    for name, found in zip(names, portable, strict=True):
        np.testing.assert_array_equal(found, project(name, activations))
