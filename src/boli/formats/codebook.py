"""Block formats whose 4 bits choose one of 16 fixed integers: IQ4_NL, IQ4_XS, MXFP4.

Each function takes blocks apart as `numbers.groups` says: uint8 `[n, block_bytes]` in; int8
`[n, block_size]` and float32 scales `[n, groups]` out. None has minimums. Layouts, in bytes:

    IQ4_NL   d 0..1  nibbles 2..17                                      32 numbers, value = d t[q]
    IQ4_XS   d 0..1  s, upper bits 2..3, lower 4..7  nibbles 8..135     256 numbers, value = d (s - 32) t[q]
    MXFP4    e 0  nibbles 1..16                                         32 numbers, value = 2^(e - 128) t[q]

Of each 16 bytes, the low nibbles are the first 16 numbers and the high nibbles the next 16.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from boli.formats.legacy import Bytes, Float32, Int8, halves, split_nibbles
from boli.formats.table import CODEBOOKS

_IQ4: Final = np.array(CODEBOOKS["iq4"], np.int8)
_E2M1: Final = np.array(CODEBOOKS["e2m1"], np.int8)


def _half_powers() -> Float32:
    """2^(e - 128) for e = 0..255: half of what E8M0 means, since the table is doubled."""
    return np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)


_HALF_POWERS: Final = _half_powers()


def iq4_nl(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """IQ4_NL: -127..113, groups of 32."""
    scales[:] = halves(blocks[:, :2])
    _look_up(_IQ4, blocks[:, 2:], quants)


def iq4_xs(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """IQ4_XS: -127..113, groups of 32 with 6-bit scales."""
    upper = blocks[:, 2:4].view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    integers = np.empty((len(blocks), 8), np.uint8)
    np.bitwise_and(blocks[:, 4:8], 15, out=integers[:, 0::2])
    np.right_shift(blocks[:, 4:8], 4, out=integers[:, 1::2])
    integers |= (upper.astype(np.uint8) & 3) << 4
    single = halves(blocks[:, :2]).astype(np.float32)
    np.multiply(single, integers.view(np.int8) - np.int8(32), out=scales)
    _look_up(_IQ4, blocks[:, 8:].reshape(-1, 16), quants.reshape(-1, 32))


def mxfp4(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """MXFP4: -12..12, groups of 32 with a power of two as scale."""
    scales[:] = _HALF_POWERS[blocks[:, :1]]
    _look_up(_E2M1, blocks[:, 1:], quants)


def _look_up(table: Int8, data: Bytes, quants: Int8) -> None:
    split_nibbles(data, quants.view(np.uint8))
    quants[:] = table[quants]
