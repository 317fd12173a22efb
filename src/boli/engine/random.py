"""Random numbers that depend on a seed and a position, on nothing else.

A counter-based generator has no state: number `i` of seed `s` is a function of `(s, i)`. So the
draw for a request's token `i` is the same whatever ran beside it, in which order, and whether the
request was interrupted and computed again.

Philox-4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import os

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[int, int, int, int]


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Scrambles a 128-bit counter under a 64-bit key, both given as 32-bit words, lowest first."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & _MASK
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & _MASK
        k0 = (k0 + _KEY_STEPS[0]) & _MASK
        k1 = (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """A multiple of 2**-53 in [0, 1): number `position` of `seed` (both 0 to 2**64 - 1)."""
    high, low, _, _ = philox4x32((position & _MASK, position >> 32, 0, 0), (seed & _MASK, seed >> 32))
    return (((high << 32) | low) >> 11) * 2.0**-53


def fresh_seed() -> int:
    """A seed from the system's entropy; 53 bits, so that every JSON reader keeps it exactly."""
    return int.from_bytes(os.urandom(8), "little") >> 11
