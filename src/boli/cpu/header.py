"""The header of a plan, as Python sees it: what stays for a model, and what each step fills in anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boli.cpu import plan as p
from boli.cpu.sizes import PAGE_SIZE, pages_together

if TYPE_CHECKING:
    from boli.engine.batch import Batch, Int32


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may ask for: rows, token ids, positions of a sequence, pages of so many heads."""

    rows: int
    vocabulary: int
    context: int
    pages: int
    kv_heads: int


class Header:
    """The table that a compiled step is given.

    Args:
        limits: What a step may ask for.
        words: The table, int64 `[HEADER_WORDS]`; zeros if left out.
    """

    def __init__(self, limits: Limits, words: npt.NDArray[np.int64] | None = None) -> None:
        self.limits = limits
        # Where a head's page lies, counted in pages of one head.
        together = pages_together(limits.pages)
        groups, within = np.divmod(np.arange(limits.pages, dtype=np.int32), np.int32(together))
        self._pages = groups * np.int32(together * limits.kv_heads) + within
        self.words = np.zeros(p.HEADER_WORDS, np.int64) if words is None else words

    def copy(self) -> Header:
        """Another step over the same weights, cache and buffers."""
        return Header(self.limits, self.words.copy())

    def set(self, field: int, value: int | npt.NDArray[Any] | None) -> None:
        """Enters a number or the address of an array, which the caller keeps alive."""
        if isinstance(value, np.ndarray):
            value = int(value.__array_interface__["data"][0])  # `.ctypes` takes longer
        self.words[field // p.WORD] = value or 0

    def set_logits(
        self, logits: npt.NDArray[np.float32], largest: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Where logits go, float32 `[outputs, vocab_size padded to 32]`, and what is found in them.

        `largest` is int64 `[threads · outputs]`, or None if nobody wants it. Its first `outputs` entries
        will be `Runner.likeliest`.
        """
        self.set(p.LOGITS, logits)
        self.set(p.LOGITS_STRIDE, logits.shape[1] * logits.itemsize)
        self.set(p.LARGEST, largest)

    def describe(self, batch: Batch) -> list[Int32]:
        """Enters a batch.

        Returns:
            The arrays that the header now points to, to be kept until the step has run.

        Raises:
            ValueError: compiled code would read or write outside its tables.
        """
        rows, limits = len(batch.token_ids), self.limits
        if not 0 < rows <= limits.rows:
            raise ValueError(f"a step has 1 to {limits.rows} rows, not {rows}")
        tokens, positions, sequences, tables, wanted = arrays = [
            np.ascontiguousarray(values, np.int32)
            for values in (
                batch.token_ids, batch.positions, batch.sequence_of_row, batch.page_tables, batch.logits_rows
            )
        ]  # fmt: skip
        # The compiled code trusts its tables: whatever indexes memory is checked here. As lists, for after a
        # step of few rows NumPy's own code is no longer in the processor's cache, and takes longer.
        places = positions.tolist()
        check_below("token id", tokens.tolist(), limits.vocabulary)
        check_below("position", places, min(limits.context, tables.shape[1] * PAGE_SIZE))
        owners = sequences.tolist()
        check_below("sequence", owners, len(tables))
        check_below("logits row", wanted.tolist(), rows)
        ends = [0] * len(tables)
        for owner, place in zip(owners, places, strict=True):
            ends[owner] = max(ends[owner], place // PAGE_SIZE + 1)
        for table, end in zip(tables, ends, strict=True):
            check_below("page", table[:end].tolist(), limits.pages)
        arrays[3] = self._pages.take(tables, mode="clip")  # what is clipped is not used
        fields = (p.TOKEN_IDS, p.POSITIONS, p.SEQUENCES, p.PAGE_TABLES, p.OUTPUT_ROWS)
        for field, array in zip(fields, arrays, strict=True):
            self.set(field, array)
        self.set(p.ROWS, rows)
        self.set(p.OUTPUTS, len(wanted))
        self.set(p.MAX_PAGES, tables.shape[1])
        return arrays


def check_below(what: str, values: list[int], end: int) -> None:
    """Whether all of some indices are within `0 … end - 1`.

    Raises:
        ValueError: one is not.
    """
    if values and not 0 <= min(values) <= max(values) < end:
        raise ValueError(f"{what} outside 0 … {end - 1}")
