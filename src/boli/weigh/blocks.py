"""How many bytes a weight takes in a number format: the sizes of blocks, without NumPy.

`boli.formats.numbers` has the same table with all that decoding needs; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

# Numbers in a block, and its bytes; scales are inside the block.
BLOCKS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({
    "F64": (1, 8), "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "F8_E4M3": (1, 1), "F8_E5M2": (1, 1), "F8_E4M3FNUZ": (1, 1), "F8_E5M2FNUZ": (1, 1), "F8_E8M0": (1, 1),
    "F6_E2M3": (4, 3), "F6_E3M2": (4, 3), "F4": (2, 1),
    "I8": (1, 1), "I16": (1, 2), "I32": (1, 4), "I64": (1, 8),
    "U8": (1, 1), "U16": (1, 2), "U32": (1, 4), "U64": (1, 8), "BOOL": (1, 1), "C64": (1, 8),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
    "Q8_K": (256, 292),
    "IQ1_S": (256, 50), "IQ1_M": (256, 56), "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74), "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98), "IQ3_S": (256, 110), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136),
    "TQ1_0": (256, 54), "TQ2_0": (256, 66), "MXFP4": (32, 17), "NVFP4": (64, 36), "Q1_0": (128, 18),
})  # fmt: skip

# A byte for each number, and four for the scale of each square of 128 by 128, as DeepSeek V3 is stored.
SQUARES: Final = "F8_E4M3_128x128"
_SIDE: Final = 128


def nbytes(shape: Sequence[int], number_format: str) -> int:
    """Bytes of a weight of this shape.

    Raises:
        KeyError: The format is unknown.
        ValueError: A row is no whole number of blocks.
    """
    if number_format == SQUARES:
        *outer, rows, columns = shape
        return prod(outer) * (rows * columns + 4 * -(-rows // _SIDE) * -(-columns // _SIDE))
    numbers, size = BLOCKS[number_format]
    if shape and shape[-1] % numbers:
        # Two numbers of F4 share a byte; GGUF's blocks lie within a row too.
        raise ValueError(f"rows of {shape[-1]} are no whole number of {number_format} blocks of {numbers}")
    return prod(shape) // numbers * size
