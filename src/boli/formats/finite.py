"""Whether a tensor holds NaN or infinity, without decoding it.

A number of a block format can only be wrong if a scale of its block is. Scales are half floats, and
the upper byte of a half float tells whether it is finite; so one byte in ten or so is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from boli.formats.table import NumberFormat

_AT_ONCE: Final = 1 << 18  # numbers; the masked copy stays in the cache


@dataclass(frozen=True, slots=True)
class _Look:
    """Where a format's exponents are: finite means `(number & mask) < limit`."""

    dtype: str
    positions: tuple[int, ...]
    mask: int
    limit: int


def _halves(*starts: int) -> _Look:
    return _Look("u1", tuple(start + 1 for start in starts), 0x7F, 0x7C)


_LOOKS: Final[Mapping[str, _Look]] = {
    "F32": _Look("<u4", (0,), 0x7FFF_FFFF, 0x7F80_0000),
    "F16": _Look("<u2", (0,), 0x7FFF, 0x7C00),
    "BF16": _Look("<u2", (0,), 0x7FFF, 0x7F80),
    "Q4_0": _halves(0),
    "Q4_1": _halves(0, 2),
    "Q5_0": _halves(0),
    "Q5_1": _halves(0, 2),
    "Q8_0": _halves(0),
    "Q2_K": _halves(80, 82),
    "Q3_K": _halves(108),
    "Q4_K": _halves(0, 2),
    "Q5_K": _halves(0, 2),
    "Q6_K": _halves(208),
    "IQ4_NL": _halves(0),
    "IQ4_XS": _halves(0),
    "MXFP4": _Look("u1", (0,), 0xFF, 253),  # from there on, 12 * 2^(e - 128) leaves float32's range
}


def is_finite(data: npt.NDArray[np.uint8], fmt: NumberFormat) -> bool:
    """Whether all numbers are finite.

    Args:
        data: uint8, whole blocks of the format, in any shape.
        fmt: A runnable format.
    """
    look = _LOOKS[fmt.name]
    numbers = np.ascontiguousarray(data).reshape(-1).view(look.dtype)
    stride = fmt.block_bytes // numbers.itemsize
    for position in look.positions:
        exponents = numbers[position::stride]
        for start in range(0, len(exponents), _AT_ONCE):
            part = exponents[start : start + _AT_ONCE]
            if int(np.bitwise_and(part, look.mask).max()) >= look.limit:
                return False
    return True
