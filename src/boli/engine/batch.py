"""What the engine hands to a runner, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from boli.blueprint.weights import Blueprint

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one forward step; a row is one token of one sequence.

    Rows of one sequence are consecutive and ascending in position. A step first writes the keys
    and values of all its rows, then every row attends to its own sequence up to its own position.

    Attributes:
        token_ids: int32 `[rows]`.
        positions: int32 `[rows]`, absolute positions in the sequence, from 0.
        sequence_of_row: int32 `[rows]`, which row of `page_tables` it belongs to.
        page_tables: int32 `[sequences, max_pages]`; entry `p // page_size` is the physical page
            that holds position `p`. Entries behind a sequence's end are not read.
        logits_rows: int32 `[outputs]`, ascending: the rows whose logits are wanted.
    """

    token_ids: Int32
    positions: Int32
    sequence_of_row: Int32
    page_tables: Int32
    logits_rows: Int32


class Runner(Protocol):
    """Turns tokens into logits. Knows pages; knows nothing of text, requests or users.

    Attributes:
        likeliest: int64 `[outputs]`, of the last `forward`: the index of each row's largest logit, the lowest
            of equals; -1 if a logit of the row is NaN or infinite. Valid as long as the logits.
    """

    blueprint: Blueprint
    page_size: int
    num_pages: int
    max_rows: int
    likeliest: Int64

    def forward(self, batch: Batch) -> Float32:
        """Runs one step.

        Returns:
            float32 `[outputs, vocab_size]`, one row for each of `logits_rows`, in their order.
            The array belongs to the runner and is valid until the next call.
        """

    def hidden(self, batch: Batch) -> Float32:
        """Runs one step, as `forward` does, without the output layer.

        Returns:
            float32 `[outputs, hidden_size]`: what comes out of the final norm, for each of `logits_rows`.
        """

    def close(self) -> None:
        """Frees weights and cache and ends the threads. May be called twice."""
