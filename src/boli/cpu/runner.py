"""The CPU runner: packed weights, the paged KV cache, and the compiled step that uses them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from boli.cpu import compiler
from boli.cpu import plan as p
from boli.cpu.layouts import padded
from boli.cpu.planning import Plan, kv_cache_bytes
from boli.cpu.sizes import LARGEST_HEAD, PAGE_SIZE
from boli.cpu.team import Team, control_words
from boli.errors import UnsupportedModel

if TYPE_CHECKING:
    from boli.engine.batch import Batch, Float32
    from boli.engine.ledger import Ledger
    from boli.formats.checkpoint import Checkpoint

__all__ = ["CpuRunner", "kv_cache_bytes"]


class CpuRunner:
    """Runs a checkpoint on this machine's processor; implements `boli.engine.batch.Runner`.

    Args:
        checkpoint: The open model. It may be closed afterwards.
        ledger: Every buffer is entered here before it is allocated.
        num_pages: Pages of the KV cache, of 32 positions each.
        max_sequences: How many rows a page table may have.
        max_rows: How many tokens a step may have.
        threads: How many threads share a step.
        context: How many positions a sequence may have.
        kv_type: What keys and values are kept as: `bf16`, `int8` or `f32`.
        progress: Told, in a line, what takes long.

    Raises:
        OutOfMemory: a buffer does not fit.
        NumericError: a norm or a bias holds NaN.
        UnsupportedModel: its heads are too large.
    """

    page_size = PAGE_SIZE

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        ledger: Ledger,
        num_pages: int,
        max_sequences: int,
        max_rows: int,
        threads: int,
        context: int,
        kv_type: str = "bf16",
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.blueprint = checkpoint.blueprint
        head_dim = self.blueprint.config.head_dim
        if head_dim > LARGEST_HEAD:
            raise UnsupportedModel(
                f"heads of {head_dim} numbers are not supported",
                cause=f"the attention kernels are made for at most {LARGEST_HEAD}",
                remedy="use a model with smaller heads",
            )
        self.num_pages, self.max_rows, self.max_sequences = num_pages, max_rows, max_sequences
        self.threads, self.context, self.kv_type = threads, context, kv_type
        self._ledger = ledger
        self._plan = Plan(
            checkpoint, ledger, num_pages=num_pages, max_rows=max_rows, threads=threads,
            context=context, kv_type=kv_type,
        )  # fmt: skip
        with ledger.growth("runtime"):  # a compiler's heap stays; kernels from the disk need little
            step = compiler.Unit("step", 4, _step)
            units = [step, *self._plan.units()]
            functions = compiler.load(units, progress)
        self._plan.link({unit.name: each.address for unit, each in zip(units, functions, strict=True)})
        control = ledger.allocate("workspace", control_words(threads), np.int64, zero=True)
        self._plan.header.set(p.CONTROL, control)
        self._team = Team(functions[0], control, self._plan.header.words, threads)
        self._logits = np.empty((0, 0), np.float32)
        # Threads must end before the memory that they look at goes away, also at exit.
        self._finalizer = weakref.finalize(self, Team.close, self._team)

    def forward(self, batch: Batch) -> Float32:
        """Runs one step; see `Runner.forward`."""
        arrays = self._plan.header.describe(batch)
        outputs = len(batch.logits_rows)
        self._grow_logits(outputs)
        self._team.run()
        del arrays  # until here compiled code read them
        return self._logits[:outputs, : self.blueprint.config.vocab_size]

    def close(self) -> None:
        """Ends the threads and lets go of weights and cache."""
        self._finalizer()
        self._plan.forget()

    def _grow_logits(self, outputs: int) -> None:
        if outputs > len(self._logits):
            if len(self._logits):
                self._ledger.leave("workspace", self._logits.nbytes)
            width = padded(self.blueprint.config.vocab_size, 32)
            self._logits = self._ledger.allocate("workspace", (outputs, width), np.float32, "logits")
        # In every step: Ctrl-C may have come between a new buffer and its place in the plan.
        self._plan.header.set_logits(self._logits)


def _step() -> Callable[..., Any]:
    from boli.cpu import step  # noqa: PLC0415  imports Numba

    made: Callable[..., Any] = step.entry
    return made
