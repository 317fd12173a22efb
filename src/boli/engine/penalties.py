"""What a user adds to logits before anything is chosen: bias and penalties.

Steps 1 to 3 of the chain that `boli.engine.sampling` describes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from boli.engine.batch import Float32
from boli.engine.params import SamplingParams

Ids = npt.NDArray[np.intp]
Float64 = npt.NDArray[np.float64]


class Penalties:
    """The bias and the penalties of one request.

    Args:
        params: What the user asked for.
        prompt_ids: The prompt, for the repetition penalty.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self._repetition = params.repetition_penalty
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        self._bias_ids: Ids = np.array([token for token, _ in params.logit_bias], np.intp)
        self._bias: Float64 = np.array([bias for _, bias in params.logit_bias], np.float64)
        self._seen = _Counts(prompt_ids) if self._repetition != 1.0 else None
        penalised = self._frequency != 0.0 or self._presence != 0.0
        self._generated = _Counts() if penalised else None

    @property
    def idle(self) -> bool:
        """Whether logits stay as they are, always."""
        return self._seen is None and self._generated is None and not self._bias_ids.size

    def accept(self, token: int) -> None:
        """Counts a token of the output, for the penalties of later ones."""
        if self._seen is not None:
            self._seen.add(token)
        if self._generated is not None:
            self._generated.add(token)

    def apply(self, logits: Float32) -> Float32:
        """The changed logits, float32 `[vocab_size]`; a copy if there is anything to do."""
        if self.idle:
            return logits
        logits = logits.copy()
        if self._bias_ids.size:
            _put(logits, self._bias_ids, logits[self._bias_ids] + self._bias)
        if self._seen is not None:
            ids = self._seen.ids
            values = logits[ids].astype(np.float64)
            with np.errstate(over="ignore"):  # infinity is cut off by _put
                scaled = np.where(values > 0.0, values / self._repetition, values * self._repetition)
            _put(logits, ids, scaled)
        if self._generated is not None:
            ids = self._generated.ids
            penalties = self._generated.counts * self._frequency + self._presence
            _put(logits, ids, logits[ids] - penalties)
        return logits


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


def _put(logits: Float32, ids: Ids, values: Float64) -> None:
    """Writes float64 values back, held inside the finite range of float32."""
    limit = np.finfo(np.float32).max
    logits[ids] = np.clip(values, -limit, limit)
