"""A draw from softmax: which token lies at a point of the cumulated probabilities.

`pick` of `weights_of` says it in float64. `quick_pick` comes to the same token in float32, in half the time
or less, or says that it cannot tell: a step of eight answers would else wait a tenth of its time for draws.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boli.engine.batch import Float32

Float64 = npt.NDArray[np.float64]

_BLOCK = 64

# How far a cumulated share in float32 may lie from the true one. A logit's distance z from the largest, over
# the temperature, is rounded three times, which changes its weight by |z| · 3 · 2**-24; beyond 20 there is
# next to no weight, so by 3.6e-6. `exp` adds 2.4e-7, a sum of 64 at most 3.8e-6: 7.6e-6, and twice that for a
# share of two such sums. A quarter more is slack.
_MARGIN = 2e-5


def weights_of(logits: Float32, temperature: float) -> Float64:
    """Softmax's numerators at a temperature, float64; the largest is exactly 1."""
    shifted = logits.astype(np.float64)
    shifted -= float(logits.max())
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature sends all others to -inf
        if temperature != 1.0:
            shifted /= temperature
        weights: Float64 = np.exp(shifted, out=shifted)
    return weights


def pick(weights: Float64, number: float) -> int:
    """The first index at which the cumulated share of the weights exceeds `number`."""
    if weights.size > 4 * _BLOCK:
        # To cumulate a vocabulary is slow: find the block first, then look into it.
        starts = np.arange(0, weights.size, _BLOCK)
        cumulated = np.cumsum(np.add.reduceat(weights, starts))
        block = _first_above(cumulated, number)
        before = cumulated[block - 1] if block else 0.0
        number = (cumulated[-1] * number - before) / (cumulated[block] - before)
        start = int(starts[block])
        return start + pick(weights[start : start + _BLOCK], min(number, 1.0 - 2.0**-53))
    return _first_above(np.cumsum(weights), number)


def quick_pick(logits: Float32, temperature: float, number: float) -> int | None:
    """`pick(weights_of(logits, temperature), number)`, or None where float32 cannot tell.

    Args:
        logits: float32 `[vocab_size]`; finite or -infinity, at least one finite.
        temperature: Above 0.
        number: In [0, 1 - 2**-53].
    """
    whole = logits.size // _BLOCK * _BLOCK
    if whole < 16 * _BLOCK:  # it would not be quicker
        return None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        weights = logits - logits.max()
        weights *= np.float32(1.0 / temperature)
        np.exp(weights, out=weights)
        sums = np.einsum("ij->i", weights[:whole].reshape(-1, _BLOCK))
    cumulated = np.cumsum(sums, dtype=np.float64)
    everything = cumulated[-1] + weights[whole:].sum(dtype=np.float64)
    point = everything * number
    block = int(np.searchsorted(cumulated, point, side="right"))
    start = block * _BLOCK
    inside = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    if block:
        inside += cumulated[block - 1]
    index = int(np.searchsorted(inside, point, side="right"))
    margin = _MARGIN * everything
    if index >= inside.size or not point + margin < inside[index]:
        return None
    low = inside[index - 1] if index else cumulated[block - 1] if block else -np.inf
    return start + index if low <= point - margin else None


def _first_above(cumulated: Float64, number: float) -> int:
    # total * number < total for every number up to 1 - 2**-53, in floating point too; so there is
    # always a first entry beyond, and it is one with a weight above zero.
    return int(np.searchsorted(cumulated, cumulated[-1] * number, side="right"))
