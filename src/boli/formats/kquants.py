"""ggml's K-quants: 256 numbers with a half-precision scale, and small integer scales for its groups.

Each function takes blocks apart as `numbers.groups` says: uint8 `[n, block_bytes]` in; int8
`[n, 256]`, float32 scales and minimums `[n, 16]` or `[n, 8]` out. Layouts, in bytes, `d` and `dmin`
half floats, `s` and `m` the integers of the number's group:

    Q2_K   s and m 0..15   2 bits 16..79   d 80..81  dmin 82..83             value = d s q - dmin m
    Q3_K   third bit 0..31  2 bits 32..95  s 96..107  d 108..109             value = d (s - 32) q
    Q4_K   d 0..1  dmin 2..3  s and m 4..15  nibbles 16..143                 value = d s q - dmin m
    Q5_K   d 0..1  dmin 2..3  s and m 4..15  fifth bit 16..47  nibbles 48..  value = d s q - dmin m
    Q6_K   nibbles 0..127  2 upper bits 128..191  s 192..207  d 208..209     value = d s (q - 32)

The products of a scale are rounded to float32 once, so `scale` and `minimum` are exactly the
numbers that ggml multiplies and subtracts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boli.formats.legacy import Bytes, Float32, Int8, halves


def q2_k(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q2_K: 0..3, groups of 16 with minimums."""
    packed = blocks[:, :16]
    np.multiply(_single(blocks[:, 80:82]), packed & 15, out=scales)
    np.multiply(-_single(blocks[:, 82:84]), packed >> 4, out=minimums)
    _two_bits(blocks[:, 16:80], quants)


def q3_k(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q3_K: -4..3, groups of 16."""
    # 16 scales of 6 bits: nibbles of bytes 0..7 below, pairs of bits of bytes 8..11 above.
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    integers = np.empty((len(blocks), 16), np.uint8)
    np.bitwise_and(low, 15, out=integers[:, :8])
    np.right_shift(low, 4, out=integers[:, 8:])
    for pair in range(4):
        integers[:, 4 * pair : 4 * pair + 4] |= ((high >> (2 * pair)) & 3) << 4
    np.multiply(_single(blocks[:, 108:110]), integers.view(np.int8) - np.int8(32), out=scales)

    _two_bits(blocks[:, 32:96], quants)
    # The third bit is kept inverted: where it is clear, 4 is taken off.
    of_group = quants.view(np.uint8).reshape(-1, 8, 32)
    third = blocks[:, :32]
    for bit in range(8):
        of_group[:, bit] |= ((third >> bit) & 1) << 2
    quants -= 4


def q4_k(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q4_K: 0..15, groups of 32 with minimums."""
    _six_bits(blocks, scales, minimums)
    _pairs_of_nibbles(blocks[:, 16:], quants)


def q5_k(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q5_K: 0..31, groups of 32 with minimums."""
    _six_bits(blocks, scales, minimums)
    _pairs_of_nibbles(blocks[:, 48:], quants)
    of_group = quants.view(np.uint8).reshape(-1, 8, 32)
    fifth = blocks[:, 16:48]
    for bit in range(8):  # bit i of byte l belongs to number l of group i
        of_group[:, bit] |= ((fifth >> bit) & 1) << 4


def q6_k(blocks: Bytes, quants: Int8, scales: Float32, minimums: Float32) -> None:
    """Q6_K: -32..31, groups of 16."""
    np.multiply(_single(blocks[:, 208:210]), blocks[:, 192:208].view(np.int8), out=scales)
    # Two halves of 128 numbers, each in four runs of 32: low nibbles of 64 bytes, then high nibbles;
    # the two upper bits of number l of run r are bits 2 r, 2 r + 1 of byte l.
    runs = quants.view(np.uint8).reshape(-1, 2, 4, 32)
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    upper = blocks[:, 128:192].reshape(-1, 2, 32)
    np.bitwise_and(low, 15, out=runs[:, :, :2])
    np.right_shift(low, 4, out=runs[:, :, 2:])
    for run in range(4):
        runs[:, :, run] |= ((upper >> (2 * run)) & 3) << 4
    quants -= 32


def _single(data: Bytes) -> Float32:
    return halves(data).astype(np.float32)


def _two_bits(data: Bytes, quants: Int8) -> None:
    """`[n, 64]`: two halves of 128 numbers; run r of 32 is in bits 2 r, 2 r + 1 of 32 bytes."""
    runs = quants.view(np.uint8).reshape(-1, 2, 4, 32)
    packed = data.reshape(-1, 2, 32)
    for run in range(4):
        np.right_shift(packed, 2 * run, out=runs[:, :, run])
    runs &= 3


def _pairs_of_nibbles(data: Bytes, quants: Int8) -> None:
    """`[n, 128]`: of each 32 bytes, the low nibbles are one group of 32, the high nibbles the next."""
    packed = data.reshape(-1, 4, 32)
    pairs = quants.view(np.uint8).reshape(-1, 4, 2, 32)
    np.bitwise_and(packed, 15, out=pairs[:, :, 0])
    np.right_shift(packed, 4, out=pairs[:, :, 1])


def _six_bits(blocks: Bytes, scales: Float32, minimums: Float32) -> None:
    """Eight scales and eight minimums of 6 bits each, in 12 bytes: the head of Q4_K and Q5_K.

    The lower six bits of bytes 0..3 are scales 0..3, of bytes 4..7 minimums 0..3. Scales 4..7 have
    their lower four bits in the low nibbles of bytes 8..11 and their upper two in the top of bytes
    0..3; minimums 4..7 have theirs in the high nibbles and in the top of bytes 4..7.
    """
    packed = blocks[:, 4:16]
    first = packed[:, :8]
    last = packed[:, 8:]
    integers: npt.NDArray[np.uint8] = np.empty((len(blocks), 2, 8), np.uint8)
    top = (first >> 6) << 4
    np.bitwise_and(first.reshape(-1, 2, 4), 63, out=integers[:, :, :4])
    np.bitwise_or(last & 15, top[:, :4], out=integers[:, 0, 4:])
    np.bitwise_or(last >> 4, top[:, 4:], out=integers[:, 1, 4:])
    np.multiply(_single(blocks[:, 0:2]), integers[:, 0], out=scales)
    np.multiply(-_single(blocks[:, 2:4]), integers[:, 1], out=minimums)
