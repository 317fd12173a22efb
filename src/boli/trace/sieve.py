"""`sampler` of a decision: likely candidates with what each step made of them, and the rest in bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boli.trace.chain import CUTS, ORDER, Chain, log_normalizer
from boli.trace.numerals import exact, short

# Candidates that are listed one by one: as many as the filters left, and as it takes to have nearly all of
# the probability; but no fewer than the first number, and no more than the second.
LISTED: Final = (16, 64)
_NEARLY_ALL: Final = 0.999
_BARRED: Final = 8  # of the tokens that a grammar forbids, the likeliest
_BARS: Final = 32  # of the histogram of what is not listed

Entry = dict[str, object]


def describe_chain(chain: Chain, told: Callable[[int], str], chosen: int) -> Entry:
    """`sampler` of a decision: the likeliest candidates, the chosen one always among them, and the rest."""
    least, most = LISTED
    likely = chain.likeliest(most)
    covered = int(np.searchsorted(np.cumsum(chain.probabilities[likely]), _NEARLY_ALL)) + 1
    left = chain.kept.size if chain.kept.size <= most else 0
    listed = likely[: max(least, covered, left)]
    named = {chosen, chain.chosen}  # they differ where another model's run is compared
    if not named <= set(listed.tolist()):
        others = [token for token in listed.tolist() if token not in named][: len(listed) - len(named)]
        listed = np.array(sorted([*others, *named], key=lambda token: (-chain.penalised[token], token)))
    rest = np.ones(chain.logits.size, bool) if chain.allowed is None else chain.allowed.copy()
    rest[listed] = False
    highest, norm = log_normalizer(chain.left)
    return {
        "order": [step for step in ORDER if step != "grammar" or chain.allowed is not None],
        "grammar": _grammar(chain, told),
        "candidates": [
            {
                "id": int(token),
                "text": told(int(token)),
                "logit": exact(chain.logits[token]),
                "penalised": exact(chain.penalised[token]),
                "scaled": short(float(chain.scaled[token])),
                "probability": short(float(chain.probabilities[token])),
                "cut": CUTS[chain.cut[token] - 1] if chain.cut[token] else None,
                "final": short(chain.final(int(token))),
                "bucket": None if (bucket := chain.bucket(int(token))) is None else list(bucket),
            }
            for token in listed
        ],
        "rest": _rest(chain, rest),
        "kept": int(chain.kept.size),
        "greedy": chain.greedy,
        "uniform": chain.uniform,
        "chosen": chain.chosen,
        "normalizer": {"max": exact(highest), "log_sum_exp": highest + norm},
    }


def _grammar(chain: Chain, told: Callable[[int], str]) -> Entry | None:
    """What the grammar of the answer let through, and the likeliest of what it did not."""
    if chain.allowed is None:
        return None
    highest, norm = log_normalizer(chain.penalised)
    shares = chain.penalised.astype(np.float64) - highest - norm
    return {
        "allowed": int(chain.allowed.sum()),
        "vocabulary": int(chain.allowed.size),
        "probability": short(float(np.exp(shares[chain.allowed]).sum())),
        "barred": [
            {
                "id": int(token),
                "text": told(int(token)),
                "logit": exact(chain.logits[token]),
                "probability": short(float(np.exp(shares[token]))),
            }
            for token in chain.barred(_BARRED)
        ],
    }


def _rest(chain: Chain, rest: NDArray[np.bool_]) -> Entry:
    """What is not listed: how many, how likely together, and how their logits are spread."""
    values = chain.penalised[rest].astype(np.float64)
    if not values.size:
        return {"count": 0, "probability": 0.0, "histogram": None}
    low, high = float(values.min()), float(values.max())
    width = max((high - low) / _BARS, 1e-6)
    counts = np.bincount(np.minimum((values - low) / width, _BARS - 1).astype(int), minlength=_BARS)
    return {
        "count": int(values.size),
        "probability": short(float(chain.probabilities[rest].sum())),
        "histogram": {"low": short(low), "width": short(width), "counts": counts.tolist()},
    }
