"""Turns a checkpoint into the tables and packed buffers that the compiled step reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boli.cpu import plan as p
from boli.cpu.compiler import Unit
from boli.cpu.layouts import LAYOUTS, ROWS_PER_BLOCK, IntLayout, Layout, pack_into, packed_bytes, padded
from boli.errors import NumericError

if TYPE_CHECKING:
    from boli.blueprint.weights import Blueprint, Role, Weight
    from boli.engine.ledger import Ledger
    from boli.formats.checkpoint import Checkpoint, Matrix

Words = npt.NDArray[np.int64]


def project_unit(layout: Layout) -> Unit:
    """The compiled matrix product of a layout."""

    def source() -> Callable[..., Any]:
        from boli.cpu import matmul  # noqa: PLC0415  imports Numba

        function: Callable[..., Any] = matmul.project(layout)
        return function

    return Unit(f"project_{layout.name}", 13, source)


def look_up_unit(layout: Layout) -> Unit:
    """The compiled embedding look-up of a layout."""

    def source() -> Callable[..., Any]:
        from boli.cpu import matmul  # noqa: PLC0415  imports Numba

        function: Callable[..., Any] = matmul.look_up(layout)
        return function

    return Unit(f"look_up_{layout.name}", 6, source)


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix in the kernels' order, and the facts that its table row is made of."""

    layout: Layout
    zero: int
    rows: int
    columns: int
    data: npt.NDArray[np.uint8]
    bias: npt.NDArray[np.float32] | None

    @property
    def is_int(self) -> int:
        """1 if the matrix wants int8 activations, 0 if it wants floats."""
        return int(isinstance(self.layout, IntLayout))

    def describe(self, row: Words, addresses: dict[str, int]) -> None:
        """Fills this matrix's row of the plan."""
        columns = padded(self.columns, 32)
        halves = isinstance(self.layout, IntLayout) and self.layout.group == 16
        values = {
            p.PROJECT: addresses[project_unit(self.layout).name],
            p.LOOK_UP: addresses.get(look_up_unit(self.layout).name, 0),
            p.DATA: self.data.ctypes.data,
            p.BLOCKS: padded(self.rows, ROWS_PER_BLOCK) // ROWS_PER_BLOCK,
            p.BLOCK_STRIDE: self.layout.block_bytes(self.columns),
            p.DEPTH: self.layout.depth(self.columns),
            p.ZERO: self.zero,
            p.IS_INT: self.is_int,
            # Behind the int8 values come scales and sums for groups of 32, then for groups of 16.
            p.META_OFFSET: columns + (columns // 32 * 12 if halves else 0),
            p.BIAS: 0 if self.bias is None else self.bias.ctypes.data,
        }
        for field, value in values.items():
            row[field // p.WORD] = value


class Packer:
    """Packs weights, entering every buffer in the ledger before it exists.

    Args:
        checkpoint: Where the weights come from. It may be closed once everything is packed.
        ledger: Where the bytes are entered.
        threads: How many threads pack at once.
    """

    def __init__(self, checkpoint: Checkpoint, ledger: Ledger, threads: int) -> None:
        self._checkpoint = checkpoint
        self._blueprint: Blueprint = checkpoint.blueprint
        self._ledger = ledger
        self._jobs: list[Callable[[], None]] = []
        self._threads = threads
        self._source: tuple[str, Any] = ("", None)
        self._packed: dict[tuple[str, int, int], PackedMatrix] = {}

    def matrix(
        self, weight: Weight, bias: Weight | None = None, part: tuple[int, int] | None = None
    ) -> PackedMatrix:
        """A matrix, or the rows `part` of a fused one. Its bytes are filled in by `run`."""
        name = weight.tied_to or weight.name
        if self._source[0] != name:  # a fused matrix is asked for three times, and may be a copy
            self._source = name, self._checkpoint.matrix(weight)
        source = self._source[1]
        first, end = part or (0, source.rows)
        if (name, first, end) not in self._packed:
            layout, zero = LAYOUTS[source.format.name]
            size = packed_bytes(layout, end - first, source.columns)
            data = self._ledger.allocate(f"weights/{source.format.name}", size, np.uint8, name)
            values = None if bias is None else self.vector(bias, part)
            self._packed[name, first, end] = PackedMatrix(
                layout, zero, end - first, source.columns, data, values
            )
            self._jobs.extend(_jobs(data, source, layout, first, end))
        return self._packed[name, first, end]

    def vector(self, weight: Weight, part: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
        """A norm's weight or a bias, padded with zeros to whole vectors."""
        values = self._checkpoint.vector(weight)
        if part is not None:
            values = values[part[0] : part[1]]
        size = padded(len(values), 32)
        result = self._ledger.allocate("weights/F32 vectors", size, np.float32, weight.name, zero=True)
        result[: len(values)] = values
        return result

    def find(self, role: Role, layer: int | None = None) -> npt.NDArray[np.float32] | None:
        """The vector with a role, or None."""
        weight = self._blueprint.find(role, layer)
        return None if weight is None else self.vector(weight)

    def run(self) -> None:
        """Does the packing. NumPy lets go of the GIL in its loops, so threads help."""
        with ThreadPoolExecutor(max(1, min(self._threads, os.cpu_count() or 1))) as pool:
            for done in [pool.submit(job) for job in self._jobs]:
                done.result()
        self._jobs.clear()


def _jobs(
    data: npt.NDArray[np.uint8], source: Matrix, layout: Layout, first: int, end: int
) -> list[Callable[[], None]]:
    """A matrix in pieces of about a million weights, so that threads share even a single large one."""
    rows = max(1, (1 << 20) // max(source.columns, 1) // ROWS_PER_BLOCK) * ROWS_PER_BLOCK
    jobs: list[Callable[[], None]] = []
    for start in range(first, end, rows):
        stop = min(start + rows, end)
        place = (start - first) // ROWS_PER_BLOCK * layout.block_bytes(source.columns)
        size = packed_bytes(layout, stop - start, source.columns)
        jobs.append(functools.partial(pack_into, data[place : place + size], source, start, stop))
    return jobs


def rope_table(inverse_frequencies: tuple[float, ...], positions: int) -> npt.NDArray[np.float32]:
    """Cosines and sines, float32 `[positions, 2 · pairs]`: first the cosines, then the sines.

    Angles are products of float32, as in the reference implementations.
    """
    frequencies = np.asarray(inverse_frequencies, np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    if not np.isfinite(table).all():
        raise NumericError("the model's RoPE frequencies are not finite")
    return np.ascontiguousarray(table, np.float32)
