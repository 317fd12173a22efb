"""How many bytes a weight takes in a number format: the sizes of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

from boli.formats.table import FORMATS

# Numbers in a block, and its bytes; scales are inside the block.
BLOCKS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {each.name: (each.block_size, each.block_bytes) for each in FORMATS.values()}
)

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
