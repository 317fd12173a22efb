"""Turns a checkpoint into the tables and packed buffers that the compiled step reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boli.cpu import plan as p
from boli.cpu.compiler import Unit
from boli.cpu.layouts import LAYOUTS, ROWS_PER_BLOCK, IntLayout, Layout, packed_bytes, padded
from boli.cpu.packed_copy import PackedCopy
from boli.cpu.packers import pack_into
from boli.errors import NumericError

if TYPE_CHECKING:
    from boli.blueprint.weights import Role, Weight
    from boli.engine.ledger import Ledger
    from boli.formats.checkpoint import Checkpoint

Words = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def project_unit(layout: Layout) -> Unit:
    """The compiled matrix product of a layout."""
    return _unit("project", layout, 12)


def look_up_unit(layout: Layout) -> Unit:
    """The compiled embedding look-up of a layout."""
    return _unit("look_up", layout, 7)


def attend_unit(kv_type: str) -> Unit:
    """The compiled attention over one type of KV cache."""

    def source() -> Callable[..., Any]:
        from boli.cpu import attention  # noqa: PLC0415  imports Numba

        made: Callable[..., Any] = attention.attend(kv_type)
        return made

    return Unit(f"attend_{kv_type}", 11, source)


def _unit(function: str, layout: Layout, arguments: int) -> Unit:
    def source() -> Callable[..., Any]:
        from boli.cpu import matmul  # noqa: PLC0415  imports Numba

        made: Callable[..., Any] = getattr(matmul, function)(layout)
        return made

    return Unit(f"{function}_{layout.name}", arguments, source)


@dataclass(slots=True)
class PackedMatrix:
    """A matrix in the kernels' order, and the facts that its row of the plan is made of.

    `data` is uint8 `[blocks, block_bytes]`, and empty until `Packer.pack`.
    """

    name: str
    layout: Layout
    rows: int
    columns: int
    bias: Floats | None
    data: Bytes

    @property
    def wants(self) -> int:
        """The encoding of activations that it is multiplied with, as a bit."""
        return 1 << p.ENCODINGS[self.layout.encoding]

    @property
    def panel_bytes(self) -> int:
        """Bytes of one block, unpacked for many rows of activations, or to look up one of its own."""
        if not isinstance(self.layout, IntLayout):
            return 0
        return self.layout.depth(self.columns) * self.layout.panel.step_bytes

    def describe(self, row: Words, addresses: dict[str, int]) -> None:
        """Fills this matrix's row of the plan."""
        values = {
            p.PROJECT: addresses[project_unit(self.layout).name],
            p.LOOK_UP: addresses.get(look_up_unit(self.layout).name, 0),
            p.DATA: self.data.ctypes.data,
            p.BLOCKS: len(self.data),
            p.BLOCK_STRIDE: self.data.strides[0],
            p.DEPTH: self.layout.depth(self.columns),
            p.ENCODING: p.ENCODINGS[self.layout.encoding] * p.WORD,
            p.BIAS: 0 if self.bias is None else self.bias.ctypes.data,
        }
        for field, value in values.items():
            row[field // p.WORD] = value


Job = Callable[[], None]
Wanted = tuple[PackedMatrix, "Weight", int]  # the last is the first row of a part of a fused matrix


class Packer:
    """Packs weights in two passes: first what is wanted, then one buffer for each number format.

    Args:
        checkpoint: Where the weights come from. It may be closed once everything is packed.
        ledger: Where the bytes are entered, before they are allocated.
    """

    def __init__(self, checkpoint: Checkpoint, ledger: Ledger) -> None:
        self._checkpoint = checkpoint
        self._ledger = ledger
        self._packed: dict[tuple[str, int, int], PackedMatrix] = {}
        self._wanted: dict[str, list[list[Wanted]]] = {}
        vectors = [padded(w.shape[0], 32) for w in checkpoint.blueprint if len(w.shape) == 1]
        # A fused bias is cut into three, each padded.
        room = sum(vectors) + 64 * len(vectors)
        self._vectors = ledger.allocate("weights/F32 vectors", room, np.float32, zero=True)

    def matrix(
        self, weight: Weight, bias: Weight | None = None, part: tuple[int, int] | None = None
    ) -> PackedMatrix:
        """A matrix, or the rows `part` of a fused one."""
        first, end = part or (0, weight.shape[0])
        key = weight.tied_to or weight.name, first, end
        if key not in self._packed:
            fmt = self._checkpoint.format_of(weight).name
            values = None if bias is None else self.vector(bias, part)
            nothing = np.empty((0, 0), np.uint8)
            packed = PackedMatrix(key[0], LAYOUTS[fmt], end - first, weight.shape[1], values, nothing)
            self._packed[key] = packed
            self._wanted.setdefault(fmt, []).append([(packed, weight, first)])
        return self._packed[key]

    def interleave(self, one: PackedMatrix, other: PackedMatrix) -> None:
        """Lets two matrices that were wanted one after the other lie block by block in turns.

        Whoever needs the same blocks of both reads one stream. If they are not alike, nothing is done.
        """
        for wanted in self._wanted.values():
            last = [packed for entries in wanted[-2:] for packed, _, _ in entries]
            alike = (one.rows, one.columns) == (other.rows, other.columns)
            if alike and len(last) == 2 and last[0] is one and last[1] is other:
                wanted[-2:] = [wanted[-2] + wanted[-1]]

    def vector(self, weight: Weight, part: tuple[int, int] | None = None) -> Floats:
        """A norm's weight or a bias, padded with zeros to whole vectors."""
        values = self._checkpoint.vector(weight)
        if part is not None:
            values = values[part[0] : part[1]]
        size = padded(len(values), 32)
        result, self._vectors = self._vectors[:size], self._vectors[size:]
        result[: len(values)] = values
        return result

    def find(self, role: Role, layer: int | None = None) -> Floats | None:
        """The vector with a role, or None."""
        weight = self._checkpoint.blueprint.find(role, layer)
        return None if weight is None else self.vector(weight)

    def pack(self, threads: int) -> None:
        """Allocates and fills all matrices, from a packed copy on the disk if there is one.

        NumPy lets go of the GIL in its loops, so threads help.

        Raises:
            OutOfMemory: They do not fit.
            NumericError: A matrix holds NaN or infinity.
        """
        jobs: list[Job] = []
        buffers: list[Bytes] = []
        for fmt, wanted in self._wanted.items():
            sizes = [sum(padded(_bytes_of(matrix), 64) for matrix, _, _ in entries) for entries in wanted]
            buffer = self._ledger.allocate(f"weights/{fmt}", sum(sizes), np.uint8, f"{fmt} weights")
            buffers.append(buffer)
            for entries, size in zip(wanted, sizes, strict=True):
                room, buffer = buffer[: sum(_bytes_of(matrix) for matrix, _, _ in entries)], buffer[size:]
                for n, (packed, weight, first) in enumerate(entries):
                    block_bytes = packed.layout.block_bytes(packed.columns)
                    packed.data = room.reshape(-1, len(entries), block_bytes)[:, n]
                    jobs += self._jobs(packed, weight, first)
        self._wanted.clear()
        copy = PackedCopy(self._checkpoint)
        if copy.read(buffers, threads):
            return
        with ThreadPoolExecutor(threads) as pool:
            submitted = [pool.submit(job) for job in jobs]
            jobs.clear()  # so that a copied source goes when its last piece is packed
            for done in submitted:
                done.result()
        copy.write(buffers, threads)

    def _jobs(self, packed: PackedMatrix, weight: Weight, first: int) -> list[Job]:
        """A matrix in pieces of about a million weights, so that threads share even a large one."""
        rows = max(1, (1 << 20) // packed.columns // ROWS_PER_BLOCK) * ROWS_PER_BLOCK

        # A view of the file, or GPT-2's transposed copy, for all pieces.
        source = functools.cache(functools.partial(self._checkpoint.matrix, weight))

        def job(start: int) -> None:
            stop = min(start + rows, packed.rows)
            pack_into(packed.data[start // ROWS_PER_BLOCK :], source(), first + start, first + stop)

        def check() -> None:
            self._checkpoint.check_finite(weight)

        return [check, *(functools.partial(job, start) for start in range(0, packed.rows, rows))]


def _bytes_of(matrix: PackedMatrix) -> int:
    return packed_bytes(matrix.layout, matrix.rows, matrix.columns)


def rope_table(inverse_frequencies: tuple[float, ...], positions: int) -> Floats:
    """Cosines and sines, float32 `[positions, 2 · pairs]`: first the cosines, then the sines.

    Angles are products of float32, as in the reference implementations.
    """
    frequencies = np.asarray(inverse_frequencies, np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    if not np.isfinite(table).all():
        raise NumericError("the model's RoPE frequencies are not finite")
    return np.ascontiguousarray(table, np.float32)
