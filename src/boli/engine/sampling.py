"""From logits to a token.

The order is fixed, and it is the one that users of Hugging Face and vLLM expect:

1. repetition penalty   tokens of the prompt and the output: logit / r if positive, logit * r if not
2. frequency, presence  tokens of the output only: logit - count * frequency - presence
3. temperature          logits / T; T = 0 ends here with the largest logit (greedy)
4. top-k                the k largest
5. top-p                softmax over what is left; the smallest set of most likely tokens that
                        reaches p
6. min-p                what is at least min_p times as likely as the most likely token
7. draw                 softmax over what is left; one uniform number of `boli.engine.random`,
                        which depends on the request's seed and the token's position in the output

Ties go to the lower id, everywhere. Weights and sums are float64; the logits stay float32.

Log-probabilities are those of the model, not of the sampler: log-softmax of the logits as they came,
before step 1, in float64 with the largest logit subtracted first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boli.engine.batch import Float32
from boli.engine.params import SamplingOptions, SamplingParams
from boli.engine.random import fresh_seed, uniform
from boli.errors import NumericError

__all__ = ["Distribution", "Sampled", "Sampler", "SamplingOptions", "SamplingParams", "largest"]

_BLOCK = 64

Ids = npt.NDArray[np.intp]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One chosen token.

    Attributes:
        id: The token.
        logprob: Its natural-log probability under the model; None if not asked for.
        top: The most likely tokens with theirs, most likely first; as many as were asked for.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the filters left to draw from.

    Attributes:
        ids: The tokens, `[n]`; None for the whole vocabulary in order.
        weights: Their probabilities times a constant, float64 `[n]`.
    """

    ids: Ids | None
    weights: Float64

    @property
    def probabilities(self) -> Float64:
        """float64 `[n]`, sums to 1."""
        probabilities: Float64 = self.weights / self.weights.sum()
        return probabilities

    def pick(self, number: float) -> int:
        """The token at a point of the cumulated probabilities, in [0, 1 - 2**-53]."""
        index = _pick(self.weights, number)
        return index if self.ids is None else int(self.ids[index])


class Sampler:
    """Chooses the tokens of one request.

    Args:
        params: What the user asked for.
        prompt_ids: The prompt, for the repetition penalty.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int] = ()) -> None:
        self.params = params
        self.seed = fresh_seed() if params.seed is None else params.seed
        self._seen = _Counts(prompt_ids) if params.repetition_penalty != 1.0 else None
        penalised = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._generated = _Counts() if penalised else None
        self._plain_greedy = params.temperature == 0.0 and self._seen is None and self._generated is None

    def sample(self, logits: Float32, position: int) -> Sampled:
        """Chooses token number `position` of the output, and remembers it for the penalties.

        Args:
            logits: float32 `[vocab_size]`; not changed.
            position: How many tokens were generated before.

        Raises:
            NumericError: A logit is NaN or infinite.
        """
        best = _checked_argmax(logits)
        if self._plain_greedy:
            token = best
        elif self.params.temperature == 0.0:
            token = int(self._penalised(logits).argmax())
        else:
            token = self.distribution(logits).pick(uniform(self.seed, position))
        self.accept(token)
        if self.params.logprobs is None:
            return Sampled(token)
        return _with_logprobs(logits, token, self.params.logprobs)

    def accept(self, token: int) -> None:
        """Counts a token of the output, for the penalties of later ones."""
        if self._seen is not None:
            self._seen.add(token)
        if self._generated is not None:
            self._generated.add(token)

    def distribution(self, logits: Float32) -> Distribution:
        """What steps 1 to 6 leave of finite logits, float32 `[vocab_size]`; temperature above 0."""
        params = self.params
        logits = self._penalised(logits)
        ids: Ids | None = None
        if 0 < params.top_k < logits.size:
            ids = largest(logits, params.top_k)
        weights = _weights(logits if ids is None else logits[ids], params.temperature)
        if params.top_p < 1.0:
            enough = params.top_p * weights.sum()
            if ids is None:
                ids = _heaviest(weights, enough)
                ids = ids[np.argsort(-logits[ids], kind="stable")]
                weights = weights[ids]
            count = int(np.searchsorted(np.cumsum(weights), enough)) + 1
            ids, weights = ids[:count], weights[:count]
        if params.min_p > 0.0:
            kept = np.flatnonzero(weights >= params.min_p)  # the largest weight is exactly 1
            ids, weights = (kept if ids is None else ids[kept]), weights[kept]
        return Distribution(ids, weights)

    def _penalised(self, logits: Float32) -> Float32:
        """Steps 1 and 2, on a copy if there is anything to do."""
        if self._seen is None and self._generated is None:
            return logits
        logits = logits.copy()
        if self._seen is not None:
            ids, penalty = self._seen.ids, self.params.repetition_penalty
            values = logits[ids].astype(np.float64)
            with np.errstate(over="ignore"):  # infinity is cut off by _put
                _put(logits, ids, np.where(values > 0.0, values / penalty, values * penalty))
        if self._generated is not None:
            ids, counts = self._generated.ids, self._generated.counts
            penalties = counts * self.params.frequency_penalty + self.params.presence_penalty
            _put(logits, ids, logits[ids] - penalties)
        return logits


def largest(values: Float32, count: int) -> Ids:
    """The indices of the `count` largest values, largest first, ties in order of index."""
    ids = np.arange(values.size)
    if count < values.size:
        # Each of `count` columns holds a value at least as large as its smallest maximum; so do the
        # `count` largest. That leaves few to sort, in one pass over the vocabulary.
        columns = values[: values.size // _BLOCK * _BLOCK].reshape(_BLOCK, -1).max(axis=0)
        if count <= columns.size:
            place = columns.size - count
            ids = np.flatnonzero(values >= np.partition(columns, place)[place])
    order: Ids = ids[np.argsort(-values[ids], kind="stable")][:count]
    return order


class _Counts:
    """How often each token occurred, as arrays that a penalty can index with."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        unique, counts = np.unique(np.asarray(ids, dtype=np.intp), return_counts=True)
        self._size = unique.size
        self._ids = np.concatenate((unique, np.zeros(16, np.intp)))
        self._counts = np.concatenate((counts.astype(np.float64), np.zeros(16)))
        self._slot_of = {int(token): slot for slot, token in enumerate(unique)}

    def add(self, token: int) -> None:
        slot = self._slot_of.setdefault(token, self._size)
        if slot == self._size:
            if slot == self._ids.size:
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[slot] = token
            self._size += 1
        self._counts[slot] += 1.0

    @property
    def ids(self) -> Ids:
        return self._ids[: self._size]

    @property
    def counts(self) -> Float64:
        return self._counts[: self._size]


def _weights(logits: Float32, temperature: float) -> Float64:
    """Softmax's numerators at a temperature, float64; the largest is exactly 1."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature sends all others to -inf
        shifted /= temperature
        weights: Float64 = np.exp(shifted, out=shifted)
    return weights


def _heaviest(weights: Float64, enough: float) -> Ids:
    """All weights above some bound, a power of 1/16, that together reach `enough`."""
    bound = 1.0
    while True:
        bound /= 16.0
        ids = np.flatnonzero(weights >= bound)
        if ids.size == weights.size or weights[ids].sum() >= enough:
            return ids


def _pick(weights: Float64, number: float) -> int:
    """The first index at which the cumulated share of the weights exceeds `number`."""
    if weights.size > 4 * _BLOCK:
        # To cumulate a vocabulary is slow: find the block first, then look into it.
        starts = np.arange(0, weights.size, _BLOCK)
        cumulated = np.cumsum(np.add.reduceat(weights, starts))
        block = _first_above(cumulated, number)
        before = cumulated[block - 1] if block else 0.0
        number = (cumulated[-1] * number - before) / (cumulated[block] - before)
        start = int(starts[block])
        return start + _pick(weights[start : start + _BLOCK], min(number, 1.0 - 2.0**-53))
    return _first_above(np.cumsum(weights), number)


def _first_above(cumulated: Float64, number: float) -> int:
    # total * number < total for every number up to 1 - 2**-53, in floating point too; so there is
    # always a first entry beyond, and it is one with a weight above zero.
    return int(np.searchsorted(cumulated, cumulated[-1] * number, side="right"))


def _put(logits: Float32, ids: Ids, values: Float64) -> None:
    """Writes float64 values back, held inside the finite range of float32."""
    limit = np.finfo(np.float32).max
    logits[ids] = np.clip(values, -limit, limit)


def _checked_argmax(logits: Float32) -> int:
    """The index of the largest logit, the lowest of equals.

    argmax stops at the first NaN and finds +inf; the minimum finds -inf. So two passes that NumPy
    vectorizes check everything.
    """
    best = int(logits.argmax())
    if not (math.isfinite(logits[best]) and math.isfinite(logits.min())):
        kind = "NaN" if np.isnan(logits).any() else "infinity"
        raise NumericError(
            f"the model computed {kind} instead of a logit",
            cause="the weights hold NaN or infinity, or numbers too large for their format",
            remedy="fetch the model again, or try another format of it",
        )
    return best


def _with_logprobs(logits: Float32, token: int, count: int) -> Sampled:
    # log softmax(x)[i] = (x[i] - max) - log sum exp(x - max)
    highest, norm = float(logits.max()), math.log(_weights(logits, 1.0).sum())

    def logprob(index: int) -> float:
        return float(logits[index]) - highest - norm

    likely = largest(logits, count).tolist() if count else []
    return Sampled(token, logprob(token), tuple((index, logprob(index)) for index in likely))
