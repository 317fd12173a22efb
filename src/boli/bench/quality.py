"""How far a model as it is run is from the same model in full precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boli.engine.batch import Float32

#: Tokens of the text that are compared; the slow model takes a while for each.
POSITIONS = 256


@dataclass(frozen=True, slots=True)
class Quality:
    """How far two models' predictions are apart.

    Attributes:
        mean_kl: Mean over positions of KL(reference ‖ other), in nats.
        error: Its standard error: other texts would give a mean about so far from it.
        max_kl: The largest.
        same_best: The share of positions at which both find the same token likeliest.
        positions: How many positions were compared.
    """

    mean_kl: float
    error: float
    max_kl: float
    same_best: float
    positions: int


def compare(reference: Iterable[Float32], other: Iterable[Float32]) -> Quality:
    """Compares logits, row by row, because a vocabulary may be large.

    Args:
        reference: float32 `[vocab_size]` for each position, one or more.
        other: The same, as many.
    """
    divergences, same = [], 0
    for left, right in zip(reference, other, strict=True):
        p, q = _log_softmax(left), _log_softmax(right)
        divergences.append(float((np.exp(p) * (p - q)).sum()))
        same += int(p.argmax() == q.argmax())
    count = len(divergences)
    error = float(np.std(divergences)) / count**0.5
    return Quality(float(np.mean(divergences)), error, max(divergences), same / count, count)


def _log_softmax(logits: Float32) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
