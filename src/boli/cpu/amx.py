"""Tile registers, where a processor has them (Intel's AMX), as functions that emit their instructions.

There are eight; each holds up to 16 rows of 64 bytes. One instruction multiplies all rows of one, pairs of
bfloat16, with all of another, and adds the products to a third:

    S[m, n] = S[m, n] + (Σ a[m, 2k] b[2k, n] + Σ a[m, 2k+1] b[2k+1, n])     k = 0 … 15

Even and odd products are added apart, in the order of k and each rounded once; subnormals become zero
(Intel's manual, TDPBF16PS).

Registers must be configured before use, which takes as long as some products: a thread does it at the
beginning of its share of a step. In the end it releases them, so that the system need not keep them when
it switches to another.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba.core import cgutils

from boli.cpu import simd
from boli.cpu.simd import I8, I8X64, I64, Builder, Value, declare
from boli.cpu.sizes import LARGEST_TILE, VECTOR
from boli.cpu.target import tile_registers

REGISTERS = 8
MOST_ROWS = 16
ANYTHING = I8.as_pointer()

# How the kernels use them (`amx_tiles.py`): sums and activations have a tile's rows, weights have all.
SUMS, LEFT, RIGHT = range(4), range(4, 6), range(6, 8)
ROWS = [LARGEST_TILE] * RIGHT.start + [MOST_ROWS] * len(RIGHT)


def in_registers(encoding: str) -> bool:
    """Whether products of numbers in this encoding are computed in tile registers."""
    return encoding in ("bf16", "bfloat16") and tile_registers()


def emit_configure(b: Builder, rows: Sequence[int]) -> None:
    """Gives each register its number of rows, all of 64 bytes."""
    # What LDTILECFG reads: the palette, from byte 16 on bytes of a row in 16 bits, from byte 48 on rows.
    sizes = [1, *[0] * 15, *[VECTOR, 0] * REGISTERS, *[0] * 16, *rows, *[0] * 8]
    place = cgutils.alloca_once(b, I8X64)
    b.store(ir.Constant(I8X64, sizes), place)
    b.call(declare(b, "llvm.x86.ldtilecfg", ir.VoidType(), ANYTHING), [b.bitcast(place, ANYTHING)])


def emit_release(b: Builder) -> None:
    """Empties all registers."""
    b.call(declare(b, "llvm.x86.tilerelease", ir.VoidType()), [])


def emit_zero(b: Builder, registers: Sequence[int]) -> None:
    """Fills registers with zeros."""
    for register in registers:
        b.call(declare(b, "llvm.x86.tilezero", ir.VoidType(), I8), [ir.Constant(I8, register)])


def emit_load(b: Builder, register: int, address: Value, stride: Value | int) -> None:
    """Fills a register with rows that lie `stride` bytes apart."""
    _move(b, "tileloadd64", register, address, stride)


def emit_store(b: Builder, register: int, address: Value, stride: Value | int) -> None:
    """Writes a register's rows, `stride` bytes apart."""
    _move(b, "tilestored64", register, address, stride)


def _move(b: Builder, name: str, register: int, address: Value, stride: Value | int) -> None:
    stride = ir.Constant(I64, stride) if isinstance(stride, int) else stride
    function = declare(b, f"llvm.x86.{name}", ir.VoidType(), I8, ANYTHING, I64)
    b.call(function, [ir.Constant(I8, register), simd.pointer(b, address, I8), stride])


def emit_multiply(b: Builder, total: int, left: int, right: int) -> None:
    """Adds the products of two registers to a third."""
    function = declare(b, "llvm.x86.tdpbf16ps", ir.VoidType(), I8, I8, I8)
    b.call(function, [ir.Constant(I8, register) for register in (total, left, right)])


@simd.operation(simd.void)
def configure(b: Builder) -> None:
    """Sizes of this thread's registers, as the kernels use them."""
    emit_configure(b, ROWS)


@simd.operation(simd.void)
def release(b: Builder) -> None:
    """Empties this thread's registers."""
    emit_release(b)


@simd.operation(simd.void)
def nothing(_: Builder) -> None:
    """In place of both where there are no tile registers."""


begin, end = (configure, release) if tile_registers() else (nothing, nothing)
