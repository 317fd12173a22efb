"""Reads packed integer weights: 32 inputs of a block of 32 outputs, as vectors of bytes and floats."""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir

from boli.cpu import simd
from boli.cpu.dots import emit_look_up
from boli.cpu.layouts import LANES, LINE, QUADS, ROWS_PER_BLOCK, SUPER, VECTORS, IntLayout
from boli.cpu.simd import F32X16, I8X16, I8X64, I16X32, I32X16, I64, Builder, Value

I1X64 = ir.VectorType(ir.IntType(1), 4 * LANES)


class Step:
    """One step of an integer layout, in the code that is being built.

    Args:
        b: Where the instructions go.
        layout: How the weights lie.
        block: Address of the block.
        index: Which step of the block.
        in_order: Whether lines are read in the order in which they lie, as a stream out of memory should
            be; it leaves LLVM less freedom.
    """

    def __init__(
        self, b: Builder, layout: IntLayout, block: Value, index: Value, *, in_order: bool = False
    ) -> None:
        self._b, self._layout = b, layout
        self._load = simd.emit_load_in_order if in_order else simd.emit_load
        self.start = b.add(block, b.mul(index, ir.Constant(I64, layout.step_bytes)))
        self._factors: list[list[Value]] = []
        if layout.has_factor:
            eighth = b.lshr(index, ir.Constant(I64, SUPER.bit_length() - 1))
            before = b.mul(eighth, ir.Constant(I64, layout.factor_bytes))
            self.start = b.add(self.start, b.add(before, ir.Constant(I64, layout.factor_bytes)))
            start = b.add(block, b.mul(eighth, ir.Constant(I64, SUPER * layout.step_bytes)))
            start = b.add(start, before)
            for column in range(layout.columns):
                places = [2 * (column * ROWS_PER_BLOCK + n * LANES) for n in range(VECTORS)]
                self._factors.append([simd.emit_load_f16(b, self._from(start, place)) for place in places])
        if in_order and layout.planes:
            # Quants and planes lie apart and are read in turns: three streams to the processor, which then
            # fetches less ahead than of one. So something of each line is read first.
            for line in range(0, layout.step_bytes, LINE):
                self._load(b, self._from(self.start, line), I64, 1)

    def quads(self, part: int) -> Iterator[tuple[int, int, Value]]:
        """A group's quants: index of the four inputs, vector of outputs, 64 unsigned bytes."""
        b, layout = self._b, self._layout
        per_byte = 8 // layout.base
        mask = ir.Constant(I8X64, [(1 << layout.base) - 1] * (4 * LANES))
        lines = QUADS // per_byte // layout.parts
        for row in range(part * lines, (part + 1) * lines):
            for n in range(VECTORS):
                raw = self._load(b, self._from(self.start, (row * VECTORS + n) * LINE), I8X64, 1)
                for field in range(per_byte):
                    quad = row * per_byte + field
                    value = raw
                    if field:
                        shift = ir.Constant(I16X32, [field * layout.base] * (2 * LANES))
                        value = b.bitcast(b.lshr(b.bitcast(raw, I16X32), shift), I8X64)
                    if per_byte > 1:
                        value = b.and_(value, mask)
                    if layout.codebook:
                        value = emit_look_up(b, layout.values, value)
                    yield quad, n, self._with_planes(value, quad, n)

    def _with_planes(self, value: Value, quad: int, n: int) -> Value:
        """Sets the bits that lie in planes."""
        b, layout = self._b, self._layout
        for plane in range(layout.planes):
            place = layout.quant_bytes + ((plane * QUADS + quad) * VECTORS + n) * 8
            bits = b.bitcast(simd.emit_load(b, self._from(self.start, place), I64, 1), I1X64)
            weight = ir.Constant(I8X64, [1 << (layout.base + plane)] * (4 * LANES))
            nothing = ir.Constant(I8X64, [0] * (4 * LANES))
            value = b.or_(value, b.select(bits, weight, nothing))
        return value

    def numbers(self, part: int) -> tuple[list[Value], list[Value]]:
        """A group's scales and minimums, each a list of vectors of 16 outputs."""
        layout = self._layout
        columns: list[list[Value]] = [[], []]
        for column in range(layout.columns):
            start = layout.quant_bytes + layout.plane_bytes
            start += (column * layout.parts + part) * ROWS_PER_BLOCK * layout.scale_bytes
            for n in range(VECTORS):
                place = self._from(self.start, start + n * LANES * layout.scale_bytes)
                columns[column].append(self._number(place, column, n))
        return columns[0], columns[1]

    def _number(self, address: Value, column: int, n: int) -> Value:
        b, scale = self._b, self._layout.scale
        if scale == "f16":
            return simd.emit_load_f16(b, address)
        if scale == "f32":
            return simd.emit_load(b, address, F32X16, 4)
        whole = simd.emit_load(b, address, I8X16, 1)
        if scale == "e8":
            return _power(b, whole)
        wide = b.sext(whole, I32X16) if scale == "i8" else b.zext(whole, I32X16)
        product = b.fmul(b.sitofp(wide, F32X16), self._factors[column][n])
        return b.fneg(product) if column else product

    def _from(self, base: Value, place: int) -> Value:
        return self._b.add(base, ir.Constant(I64, place))


def _power(b: Builder, exponents: Value) -> Value:
    """2^(e - 128) of 16 unsigned bytes, exactly: half of 2^(e - 127), whose exponent's bits e are."""

    def constant(value: int) -> ir.Constant:
        return ir.Constant(I32X16, [value] * LANES)

    bits = b.shl(b.zext(exponents, I32X16), constant(23))
    subnormal = constant(1 << 22)  # 2^-127, which e = 0 means
    bits = b.select(b.icmp_unsigned(">", bits, subnormal), bits, subnormal)
    return b.fmul(b.bitcast(bits, F32X16), ir.Constant(F32X16, [0.5] * LANES))
