"""ggml's first block formats: 32 numbers with one half-precision scale, some with a minimum.

Each function takes blocks apart as `numbers.groups` says: uint8 `[n, block_bytes]` in; int8
`[n, 32]`, float32 scales `[n, 1]` and float32 minimums `[n, 1]` out. Layouts, in bytes, `d` the
scale and `m` the minimum as half floats:

    Q4_0   d 0..1                          nibbles 2..17      value = d (q - 8)
    Q4_1   d 0..1  m 2..3                  nibbles 4..19      value = d q + m
    Q5_0   d 0..1           high bits 2..5 nibbles 6..21      value = d (q - 16)
    Q5_1   d 0..1  m 2..3   high bits 4..7 nibbles 8..23      value = d q + m
    Q8_0   d 0..1                          int8    2..33      value = d q

The low nibbles are numbers 0..15 of the block, the high nibbles 16..31.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]


def halves(data: Bytes) -> npt.NDArray[np.float16]:
    """Bytes `[n, 2 k]` seen as little-endian half floats `[n, k]`."""
    return data.view("<f2")


def split_nibbles(data: Bytes, out: Bytes) -> None:
    """Low nibbles of `[n, k]` into the first half of `[n, 2 k]`, high nibbles into the second.

    `k` is a multiple of 8: eight bytes are split at a time.
    """
    packed, wide = np.ascontiguousarray(data).view(np.uint64), out.view(np.uint64)
    half, mask = packed.shape[1], np.uint64(0x0F0F0F0F0F0F0F0F)
    np.bitwise_and(packed, mask, out=wide[:, :half])
    packed = packed >> np.uint64(4)
    np.bitwise_and(packed, mask, out=wide[:, half:])


def _add_fifth_bits(data: Bytes, quants: Bytes) -> None:
    """Bit i of the 32 bits in `[n, 4]` is worth 16 in number i."""
    bits = np.unpackbits(data, axis=1, bitorder="little")
    bits <<= 4
    quants |= bits


def q4_0(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q4_0: -8..7."""
    split_nibbles(blocks[:, 2:], quants.view(np.uint8))
    quants -= 8
    scales[:] = halves(blocks[:, :2])


def q4_1(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q4_1: 0..15, with a minimum."""
    split_nibbles(blocks[:, 4:], quants.view(np.uint8))
    scales[:] = halves(blocks[:, :2])
    minimums[:] = halves(blocks[:, 2:4])


def q5_0(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q5_0: -16..15."""
    split_nibbles(blocks[:, 6:], quants.view(np.uint8))
    _add_fifth_bits(blocks[:, 2:6], quants.view(np.uint8))
    quants -= 16
    scales[:] = halves(blocks[:, :2])


def q5_1(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q5_1: 0..31, with a minimum."""
    split_nibbles(blocks[:, 8:], quants.view(np.uint8))
    _add_fifth_bits(blocks[:, 4:8], quants.view(np.uint8))
    scales[:] = halves(blocks[:, :2])
    minimums[:] = halves(blocks[:, 2:4])


def q8_0(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q8_0: -128..127."""
    quants[:] = blocks[:, 2:].view(np.int8)
    scales[:] = halves(blocks[:, :2])
