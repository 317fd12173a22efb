"""From logits to a token.

The order is fixed, and it is the one that users of Hugging Face and vLLM expect:

1. bias                 logit + logit_bias of the token, as given by the user
2. repetition penalty   tokens of the prompt and the output: logit / r if positive, logit * r if not
3. frequency, presence  tokens of the output only: logit - count * frequency - presence
4. constraint           what a grammar forbids here is out: its logit is -infinity from now on
5. temperature          logits / T; T = 0 ends here with the largest logit (greedy)
6. top-k                the k largest
7. top-p                softmax over what is left; the smallest set of most likely tokens that
                        reaches p
8. min-p                what is at least min_p times as likely as the most likely token
9. draw                 softmax over what is left; one uniform number of `boli.engine.random`,
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

from boli.engine.batch import Float32
from boli.engine.constraint import Constraint
from boli.engine.draw import pick, quick_pick, weights_of
from boli.engine.params import SamplingOptions, SamplingParams
from boli.engine.penalties import Float64, Ids, Penalties
from boli.engine.random import fresh_seed, uniform
from boli.errors import GrammarError, NumericError

__all__ = [
    "Distribution",
    "Sampled",
    "Sampler",
    "SamplingOptions",
    "SamplingParams",
    "largest",
    "with_logprobs",
]

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Sampled:
    """One chosen token.

    Attributes:
        id: The token.
        logprob: Its natural-log probability under the model; None if not asked for.
        top: The most likely tokens with theirs, most likely first; as many as were asked for.
        logit: Its logit as the model gave it, before all settings, so that a replay can be held against it.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    logit: float = math.nan


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
        index = pick(self.weights, number)
        return index if self.ids is None else int(self.ids[index])


class Sampler:
    """Chooses the tokens of one request.

    Args:
        params: What the user asked for.
        prompt_ids: The prompt, for the repetition penalty.
        constraint: What the output must be; None for anything.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int] = (), constraint: Constraint | None = None
    ) -> None:
        self.params = params
        self.seed = fresh_seed() if params.seed is None else params.seed
        self._penalties = Penalties(params, prompt_ids)
        self._walk = None if constraint is None else constraint.begin()
        self._plain_greedy = params.temperature == 0.0 and self._penalties.idle and constraint is None

    @property
    def finished(self) -> bool:
        """Whether a constraint is fulfilled and lets nothing follow; always False without one."""
        return self._walk is not None and self._walk.finished

    def sample(self, logits: Float32, position: int, best: int = -1) -> Sampled:
        """Chooses token number `position` of the output, and remembers it for those after it.

        Args:
            logits: float32 `[vocab_size]`; not changed.
            position: How many tokens were generated before.
            best: What `Runner.likeliest` says of them; -1 to look through them here.

        Raises:
            NumericError: A logit is NaN or infinite.
            GrammarError: The constraint allows no token, or cannot be followed any further.
        """
        if best < 0:
            best = _checked_argmax(logits)
        if self._plain_greedy:
            token = best
        elif self.params.temperature == 0.0:
            token = int(self._left(logits).argmax())
        else:
            token = self._draw(logits, uniform(self.seed, position))
        self.accept(token)
        if self.params.logprobs is None:
            return Sampled(token, logit=float(logits[token]))
        return with_logprobs(logits, token, self.params.logprobs)

    def accept(self, token: int) -> None:
        """Takes a token of the output, for the penalties and the constraint of later ones."""
        self._penalties.accept(token)
        if self._walk is not None:
            self._walk.accept(token)

    def distribution(self, logits: Float32) -> Distribution:
        """What steps 1 to 8 leave of finite logits, float32 `[vocab_size]`; temperature above 0.

        What a constraint forbids has the weight 0.
        """
        params = self.params
        logits = self._left(logits)
        ids: Ids | None = None
        if 0 < params.top_k < logits.size:
            ids = largest(logits, params.top_k)
        weights = weights_of(logits if ids is None else logits[ids], params.temperature)
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

    def _draw(self, logits: Float32, number: float) -> int:
        """What `distribution(logits).pick(number)` is, sooner where no filter needs all the weights."""
        params = self.params
        if not (0 < params.top_k < logits.size or params.top_p < 1.0 or params.min_p > 0.0):
            logits = self._left(logits)
            token = quick_pick(logits, params.temperature, number)
            return pick(weights_of(logits, params.temperature), number) if token is None else token
        return self.distribution(logits).pick(number)

    def _left(self, logits: Float32) -> Float32:
        """Steps 1 to 4; -infinity is what the constraint forbids."""
        logits = self._penalties.apply(logits)
        if self._walk is None:
            return logits
        allowed = self._walk.allowed()
        if not allowed.any():
            raise GrammarError(
                "no token of the vocabulary continues the output as it must go on",
                cause="the schema or grammar wants characters for which the model has no token",
                remedy="allow other characters",
            )
        return np.where(allowed, logits, np.float32(-np.inf))


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


def _heaviest(weights: Float64, enough: float) -> Ids:
    """All weights above some bound, a power of 1/16, that together reach `enough`."""
    bound = 1.0
    while True:
        bound /= 16.0
        ids = np.flatnonzero(weights >= bound)
        if ids.size == weights.size or weights[ids].sum() >= enough:
            return ids


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


def with_logprobs(logits: Float32, token: int, count: int) -> Sampled:
    """A token with its log-probability under the model, and the `count` likeliest with theirs."""
    # log softmax(x)[i] = (x[i] - max) - log sum exp(x - max)
    highest, norm = float(logits.max()), math.log(weights_of(logits, 1.0).sum())

    def logprob(index: int) -> float:
        return float(logits[index]) - highest - norm

    likely = largest(logits, count).tolist() if count else []
    top = tuple((index, logprob(index)) for index in likely)
    return Sampled(token, logprob(token), top, float(logits[token]))
