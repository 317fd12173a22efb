"""How weights lie in memory for the kernels.

Thirty-two rows of a matrix make a block: two vectors of 16 lanes, one lane an output. A block is
one contiguous stream in the order in which it is read, and so is the whole matrix:

    float layouts    for each input k: 32 numbers, one a row
    pair layouts     for each two inputs: 32 pairs of bfloat16, one pair a row
    integer layouts  for each 32 inputs: the quants, the scales, the minimums

Quants are unsigned, four inputs deep: 64 bytes hold inputs k … k+3 of 16 rows, one byte each; the
next 64 bytes those of the other 16 rows. With fewer bits, a byte holds inputs that are 4 apart, the
lowest bits the first; the fifth and sixth bit, and the third, lie in planes behind, 64 bits to each
64 quants, as AVX-512 wants its masks.

    weight = scale * (quant - zero) + minimum

which is exact: a packed matrix holds the same numbers as the file, at the same number of bits.
Scales of K-quants stay what they are in the file: products of a half for 256 inputs and an integer.
Where the file has codes, 4 bits that choose one of 16 integers, so has the packed matrix; the quants
are what the kernel finds in the codebook, with `zero` added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from boli.formats.table import CODEBOOKS

LANES = 16
VECTORS = 2
ROWS_PER_BLOCK = LANES * VECTORS
GROUP = 32  # inputs of one step of an integer layout, and activations that share a scale
SUPER = 8  # steps that share the half-precision factor of their scales
QUADS = GROUP // 4
LINE = LANES * 4  # bytes of four inputs of 16 rows

Encoding = Literal["int8", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class FloatLayout:
    """Weights kept as floating-point numbers; the kernel multiplies them in float32."""

    element: Literal["f32", "f16"]
    encoding: Encoding = "float32"

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
        return padded(columns, GROUP)

    def block_bytes(self, columns: int) -> int:
        """Bytes of a block."""
        return self.depth(columns) * ROWS_PER_BLOCK * self.element_bytes


@dataclass(frozen=True, slots=True)
class PairLayout:
    """Weights kept as bfloat16, multiplied two at a time by bfloat16 activations."""

    encoding: Encoding = "bfloat16"

    @property
    def name(self) -> str:
        """Names the compiled kernel."""
        return "bf16"

    def depth(self, columns: int) -> int:
        """Steps of the inner loop: one for two inputs."""
        return padded(columns, GROUP) // 2

    def block_bytes(self, columns: int) -> int:
        """Bytes of a block."""
        return self.depth(columns) * ROWS_PER_BLOCK * 4


@dataclass(frozen=True, slots=True)
class IntLayout:
    """Weights kept as `bits`-bit integers with one scale for each `group` inputs of a row.

    Attributes:
        bits: Bits of a quant as it lies in memory.
        group: Inputs that share a scale.
        minimum: Whether a group has a minimum; then `zero` is 0.
        scale: Scales as half or single floats, as products of a half and a signed or unsigned byte, or
            as a byte e that means 2^(e - 128).
        zero: What is taken off each quant, a power of two or 0.
        codebook: Which 16 integers the bits choose from; if empty, they are the quant itself.
    """

    bits: Literal[2, 3, 4, 5, 6, 8]
    group: Literal[16, 32]
    minimum: bool
    scale: Literal["f16", "f32", "i8", "u8", "e8"]
    zero: int = 0
    codebook: Literal["", "iq4", "e2m1"] = ""
    encoding: Encoding = "int8"

    @property
    def name(self) -> str:
        """Names the compiled kernel."""
        minimum = "m" if self.minimum else ""
        return f"q{self.bits}g{self.group}{minimum}{self.scale}z{self.zero}{self.codebook}"

    @property
    def values(self) -> tuple[int, ...]:
        """The quant that each code means, if there is a codebook."""
        return tuple(value + self.zero for value in CODEBOOKS[self.codebook]) if self.codebook else ()

    @property
    def quant_bits(self) -> int:
        """Bits of a quant when it is multiplied."""
        return max(self.values).bit_length() if self.codebook else self.bits

    @property
    def base(self) -> int:
        """Bits that lie together in bytes."""
        return 8 if self.bits == 8 else 4 if self.bits >= 4 else 2

    @property
    def planes(self) -> int:
        """Bits that lie in planes of their own."""
        return self.bits - self.base

    @property
    def parts(self) -> int:
        """Groups in a step."""
        return GROUP // self.group

    @property
    def quant_bytes(self) -> int:
        """Bytes of a step's quants without planes."""
        return ROWS_PER_BLOCK * GROUP * self.base // 8

    @property
    def plane_bytes(self) -> int:
        """Bytes of a step's planes."""
        return ROWS_PER_BLOCK * GROUP // 8 * self.planes

    @property
    def scale_bytes(self) -> int:
        """Bytes of one scale."""
        return {"f16": 2, "f32": 4, "i8": 1, "u8": 1, "e8": 1}[self.scale]

    @property
    def has_factor(self) -> bool:
        """Whether scales (and minimums) are products with a half for 256 inputs."""
        return self.scale in ("i8", "u8")

    @property
    def columns(self) -> int:
        """How many columns of numbers belong to a group: a scale, and perhaps a minimum."""
        return 2 if self.minimum else 1

    @property
    def step_bytes(self) -> int:
        """Bytes of 32 inputs of a block: quants, planes, scales, minimums."""
        numbers = self.parts * self.columns * ROWS_PER_BLOCK * self.scale_bytes
        return self.quant_bytes + self.plane_bytes + numbers

    @property
    def factor_bytes(self) -> int:
        """Bytes in front of 256 inputs of a block: the halves."""
        return self.columns * ROWS_PER_BLOCK * 2 if self.has_factor else 0

    def depth(self, columns: int) -> int:
        """Steps of the inner loop: one for 32 inputs, whole eights where they share a half."""
        return padded(columns, GROUP * SUPER if self.has_factor else GROUP) // GROUP

    def block_bytes(self, columns: int) -> int:
        """Bytes of a block."""
        depth = self.depth(columns)
        return depth * self.step_bytes + depth // SUPER * self.factor_bytes

    @property
    def panel(self) -> IntLayout:
        """What a block becomes when it is unpacked: bytes, and scales as float32."""
        return IntLayout(8, self.group, self.minimum, "f32", self.zero)


Layout = FloatLayout | PairLayout | IntLayout

# What each number format becomes.
LAYOUTS: dict[str, Layout] = {
    "F32": FloatLayout("f32"),
    "F16": FloatLayout("f16"),
    "BF16": PairLayout(),
    "Q4_0": IntLayout(4, 32, False, "f16", 8),
    "Q4_1": IntLayout(4, 32, True, "f16"),
    "Q5_0": IntLayout(5, 32, False, "f16", 16),
    "Q5_1": IntLayout(5, 32, True, "f16"),
    "Q8_0": IntLayout(8, 32, False, "f16", 128),
    "Q2_K": IntLayout(2, 16, True, "u8"),
    "Q3_K": IntLayout(3, 16, False, "i8", 4),
    "Q4_K": IntLayout(4, 32, True, "u8"),
    "Q5_K": IntLayout(5, 32, True, "u8"),
    "Q6_K": IntLayout(6, 16, False, "i8", 32),
    "IQ4_NL": IntLayout(4, 32, False, "f16", 128, "iq4"),
    "IQ4_XS": IntLayout(4, 32, False, "i8", 128, "iq4"),
    "MXFP4": IntLayout(4, 32, False, "e8", 16, "e2m1"),
}


def padded(size: int, multiple: int) -> int:
    """`size`, rounded up to a multiple."""
    return -(-size // multiple) * multiple


def packed_bytes(layout: Layout, rows: int, columns: int) -> int:
    """Bytes of a packed matrix; rows are padded to whole blocks."""
    return padded(rows, ROWS_PER_BLOCK) // ROWS_PER_BLOCK * layout.block_bytes(columns)
