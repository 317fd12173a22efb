"""The logit lens: what the model would say if it stopped after each layer.

Each layer's residual stream goes through the model's own final norm and head, by the same kernels as in a
step (nostalgebraist 2020, "interpreting GPT: the logit lens"). After the last layer that is what the model
says. Probabilities are float32 with sums in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boli.engine.batch import Float32
from boli.engine.sampling import largest

#: Logits that are held at once.
_AT_ONCE = 8 << 20

Head = Callable[[Float32], Float32]


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that a layer would say, and how sure it is."""

    id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Lens:
    """What the layers would say at one position.

    Attributes:
        top: After each layer the likeliest tokens, the first one first.
        rank: After each layer how many tokens are likelier than the chosen one.
        probability: After each layer, of the chosen one.
        last: The last layer's logits, float32 `[vocab_size]`.
    """

    top: list[list[Guess]]
    rank: list[int]
    probability: list[float]
    last: Float32

    @property
    def first_leads(self) -> int | None:
        """The layer from which on the chosen token stays first to the end; None if it is not first there."""
        behind = [layer for layer, rank in enumerate(self.rank) if rank]
        first = behind[-1] + 1 if behind else 0
        return first if first < len(self.rank) else None


def decision_lens(head: Head, vocab_size: int, residual: Float32, chosen: int, count: int) -> Lens:
    """The lens of one decision.

    Args:
        head: Final norm and head, such as `runner.head_logits`: float32 `[rows, vocab_size]`, read at once.
        vocab_size: Tokens that it knows.
        residual: The residual stream after each layer, float32 `[layers, hidden_size]`.
        chosen: The token that was chosen in the end.
        count: How many tokens to name after each layer.
    """
    top: list[list[Guess]] = []
    rank: list[int] = []
    probability: list[float] = []
    last = np.empty(0, np.float32)
    for logits, highest, total in _rows(head, vocab_size, residual):
        ids = largest(logits, count)
        shares = np.exp(logits[ids] - highest) / total
        top.append([Guess(int(i), float(p)) for i, p in zip(ids, shares, strict=True)])
        mine = logits[chosen]
        rank.append(int((logits > mine).sum() + (logits[:chosen] == mine).sum()))
        probability.append(float(np.exp(mine - highest) / total))
        last = logits
    return Lens(top, rank, probability, last.copy())


def prompt_lens(head: Head, vocab_size: int, residual: Float32) -> tuple[NDArray[np.int32], Float32]:
    """The likeliest token after each layer, for several positions.

    Args:
        head: As for `decision_lens`.
        vocab_size: Tokens that it knows.
        residual: float32 `[layers, rows, hidden_size]`.

    Returns:
        Ids int32 and probabilities float32, both `[rows, layers]`.
    """
    layers, rows, hidden = residual.shape
    ids = np.empty(layers * rows, np.int32)
    shares = np.empty(layers * rows, np.float32)
    for index, (logits, _, total) in enumerate(_rows(head, vocab_size, residual.reshape(-1, hidden))):
        ids[index], shares[index] = logits.argmax(), 1.0 / total
    return ids.reshape(layers, rows).T, shares.reshape(layers, rows).T


def entropy(logits: Float32) -> float:
    """Of the model's distribution, in nats."""
    shifted = logits.astype(np.float64) - float(logits.max())
    weights = np.exp(shifted)
    total = weights.sum()
    return float(np.log(total) - (weights * shifted).sum() / total)


def _rows(head: Head, vocab_size: int, states: Float32) -> Iterator[tuple[Float32, np.float32, float]]:
    """Logits of each row, the largest, and the sum of exp(logit - largest)."""
    step = max(1, _AT_ONCE // vocab_size)
    for start in range(0, len(states), step):
        for logits in head(states[start : start + step]):
            highest = logits.max()
            yield logits, highest, float(np.exp(logits - highest).sum(dtype=np.float64))


def named(guesses: Sequence[Guess], text: Callable[[int], str]) -> list[dict[str, object]]:
    """Guesses as they stand in a document."""
    return [{"id": g.id, "text": text(g.id), "probability": g.probability} for g in guesses]
