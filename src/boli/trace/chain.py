"""The sampler's chain as evidence: each step of `boli.engine.sampling`, done again where it can be seen.

Written from that module's description, not with the functions that choose there: plain formulas over the
whole vocabulary, in the order in which the sampler works. That both choose the same token is a test over
random settings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from boli.engine.batch import Float32
from boli.engine.constraint import Bools
from boli.engine.params import SamplingParams
from boli.engine.random import uniform
from boli.engine.sampling import largest

Float64 = NDArray[np.float64]
Ids = NDArray[np.intp]
Cut = Literal["top_k", "top_p", "min_p"]

ORDER: Final = (
    "bias", "repetition_penalty", "frequency_presence", "grammar", "temperature", "top_k", "top_p", "min_p",
    "draw",
)  # fmt: skip
#: Filters in the order in which they cut, by the code that `Chain.cut` has for them.
CUTS: Final[tuple[Cut, ...]] = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Chain:
    """How one token was chosen.

    Attributes:
        logits: As the model gave them, float32 `[vocab_size]`.
        params: The settings.
        uniform: The random number, in [0, 1); None if nothing was drawn (temperature 0).
        penalised: Logits after the bias and the penalties, float32 `[vocab_size]`.
        allowed: What the grammar of the answer lets through, bool `[vocab_size]`; None without one.
        scaled: Those by the temperature, float64 `[vocab_size]`; at temperature 0 as they are.
        probabilities: Softmax of those, over all that is allowed, float64 `[vocab_size]`.
        kept: What the filters left, in the order in which it is drawn from, intp `[kept]`.
        weights: Of those, in proportion to their probability; the largest is 1, float64 `[kept]`.
        cut: Which filter took a token away, one based on `CUTS`; 0 for none, uint8 `[vocab_size]`.
        chosen: The token.
    """

    logits: Float32
    params: SamplingParams
    uniform: float | None
    penalised: Float32
    scaled: Float64
    probabilities: Float64
    kept: Ids
    weights: Float64
    cut: NDArray[np.uint8]
    chosen: int
    allowed: Bools | None = None

    @property
    def left(self) -> Float32:
        """Penalised logits, with -infinity for what the grammar forbids, float32 `[vocab_size]`."""
        return _masked(self.penalised, self.allowed)

    @property
    def greedy(self) -> bool:
        """Whether the largest logit was taken."""
        return self.uniform is None

    def likeliest(self, count: int) -> Ids:
        """So many allowed tokens, the likeliest first, of equals the lower id first."""
        left = self.left
        ids = largest(left, count)
        return ids[np.isfinite(left[ids])]

    def barred(self, count: int) -> Ids:
        """So many tokens that the grammar forbids, the likeliest first; empty without a grammar."""
        if self.allowed is None:
            return np.empty(0, np.intp)
        out = _masked(self.penalised, ~self.allowed)
        ids = largest(out, count)
        return ids[np.isfinite(out[ids])]

    def final(self, token: int) -> float:
        """The probability of a token after all filters."""
        place = np.flatnonzero(self.kept == token)
        return float(self.weights[place[0]] / self.weights.sum()) if place.size else 0.0

    def bucket(self, token: int) -> tuple[float, float] | None:
        """Between which numbers a draw gives a token; None if it cannot come, or nothing is drawn."""
        place = np.flatnonzero(self.kept == token)
        if self.greedy or not place.size:
            return None
        index, ends = int(place[0]), self._ends
        return (float(ends[index - 1]) if index else 0.0), float(ends[index])

    @cached_property
    def _ends(self) -> Float64:
        ends = np.cumsum(self.weights)
        return np.asarray(ends / ends[-1])


def follow(
    logits: Float32,
    params: SamplingParams,
    *,
    seed: int,
    prompt: Sequence[int],
    output: Sequence[int],
    allowed: Bools | None = None,
) -> Chain:
    """Chooses a token, and keeps every step.

    Args:
        logits: float32 `[vocab_size]`, finite.
        params: The settings.
        seed: Of the request.
        prompt: Its prompt's tokens.
        output: Those that it had generated before.
        allowed: What the grammar of the answer lets through, at least one token, bool `[vocab_size]`.
    """
    penalised = _penalise(logits, params, prompt, output)
    left = _masked(penalised, allowed)
    if params.temperature == 0.0:
        chosen = int(left.argmax())
        cut = np.zeros(logits.size, np.uint8)
        kept, weights = np.array([chosen]), np.ones(1)
        scaled = penalised.astype(np.float64)
        number = None
    else:
        with np.errstate(over="ignore"):
            scaled = penalised.astype(np.float64) / params.temperature
        kept, weights, cut = _filter(left, params)
        if allowed is not None:  # what has no weight changes no sum
            kept, weights = kept[allowed[kept]], weights[allowed[kept]]
        number = uniform(seed, len(output))
        ends = np.cumsum(weights)
        chosen = int(kept[np.searchsorted(ends, ends[-1] * number, side="right")])
    every = _weights(left, params.temperature or 1.0)
    return Chain(
        logits=logits,
        params=params,
        uniform=number,
        penalised=penalised,
        scaled=scaled,
        probabilities=every / every.sum(),
        kept=kept,
        weights=weights,
        cut=cut,
        chosen=chosen,
        allowed=allowed,
    )


def log_normalizer(logits: Float32) -> tuple[float, float]:
    """The largest logit, and log Σ exp(logit - largest), in float64."""
    return float(logits.max()), math.log(_weights(logits, 1.0).sum())


def _penalise(
    logits: Float32, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> Float32:
    """Steps 1 to 3: what is wished for; what was said before becomes less likely, or more."""
    changed = logits.copy()
    if params.logit_bias:
        ids, bias = zip(*params.logit_bias, strict=True)
        wished = np.asarray(ids, np.intp)
        changed[wished] = _finite(changed[wished].astype(np.float64) + np.asarray(bias))
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray([*prompt, *output], np.intp))
        values = changed[seen].astype(np.float64)
        with np.errstate(over="ignore"):
            divided = values / params.repetition_penalty
            values = np.where(values > 0.0, divided, values * params.repetition_penalty)
        changed[seen] = _finite(values)
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        counts = Counter(output)
        said = np.fromiter(counts.keys(), np.intp, len(counts))
        times = np.fromiter(counts.values(), np.float64, len(counts))
        minus = times * params.frequency_penalty + params.presence_penalty
        changed[said] = _finite(changed[said].astype(np.float64) - minus)
    return changed


def _masked(values: Float32, allowed: Bools | None) -> Float32:
    """Step 4: what a grammar forbids cannot come."""
    return values if allowed is None else np.where(allowed, values, np.float32(-np.inf))


def _filter(penalised: Float32, params: SamplingParams) -> tuple[Ids, Float64, NDArray[np.uint8]]:
    """The filters: what is left, its weights, and what cut the rest."""
    cut = np.zeros(penalised.size, np.uint8)
    ids: Ids = np.arange(penalised.size)
    top_k = 0 < params.top_k < ids.size
    if top_k or params.top_p < 1.0:
        ids = np.argsort(-penalised, kind="stable")
    if top_k:
        cut[ids[params.top_k :]] = 1
        ids = ids[: params.top_k]
    weights = _weights(penalised[ids], params.temperature)
    if params.top_p < 1.0:
        # The whole, summed as the sampler does: in order of the vocabulary if nothing was cut before.
        whole = weights.sum() if top_k else _weights(penalised, params.temperature).sum()
        count = int(np.searchsorted(np.cumsum(weights), params.top_p * whole)) + 1
        cut[ids[count:]] = 2
        ids, weights = ids[:count], weights[:count]
    if params.min_p > 0.0:
        likely = weights >= params.min_p
        cut[ids[~likely]] = 3
        ids, weights = ids[likely], weights[likely]
    return ids, weights, cut


def _weights(logits: Float32, temperature: float) -> Float64:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(shifted / temperature))


def _finite(values: Float64) -> Float32:
    limit = np.finfo(np.float32).max
    return np.clip(values, -limit, limit).astype(np.float32)
