"""The CPU runner: packed weights, the paged KV cache, and the compiled step that uses them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from boli.cpu import compiler
from boli.cpu import plan as p
from boli.cpu.cached import read_pages
from boli.cpu.layouts import padded
from boli.cpu.observe import Observer
from boli.cpu.planning import Plan, kv_cache_bytes
from boli.cpu.probing import PROBES, Observation, observation_bytes
from boli.cpu.sizes import LARGEST_HEAD, PAGE_SIZE
from boli.cpu.team import Team, control_words
from boli.errors import BoliError, UnsupportedModel

if TYPE_CHECKING:
    from boli.engine.batch import Batch, Float32, Int32
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

    Attributes:
        likeliest: See `Runner`.

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
        self._ledger, self._progress = ledger, progress
        self._plan = Plan(
            checkpoint, ledger, num_pages=num_pages, max_rows=max_rows, threads=threads,
            context=context, kv_type=kv_type,
        )  # fmt: skip
        with ledger.growth("runtime"):  # a compiler's heap stays; kernels from the disk need little
            step = _step_unit("step", "entry")
            units = [step, *self._plan.units()]
            functions = compiler.load(units, progress)
        self._plan.link({unit.name: each.address for unit, each in zip(units, functions, strict=True)})
        control = ledger.allocate("workspace", control_words(threads), np.int64, zero=True)
        self._plan.header.set(p.CONTROL, control)
        self._team = Team(functions[0], control, self._plan.header.words, threads)
        self._logits, self._largest = np.empty((0, 0), np.float32), np.empty(0, np.int64)
        self.likeliest = self._largest
        self._observer: Observer | None = None
        # Threads must end before the memory that they look at goes away, also at exit.
        self._finalizer = weakref.finalize(self, Team.close, self._team)

    def forward(self, batch: Batch) -> Float32:
        """Runs one step; see `Runner.forward`."""
        arrays = self._plan.header.describe(batch)
        outputs = len(batch.logits_rows)
        self._grow_logits(outputs)
        self._team.run()
        del arrays  # until here compiled code read them
        self.likeliest = self._largest[:outputs]
        return self._logits[:outputs, : self.blueprint.config.vocab_size]

    def close(self) -> None:
        """Ends the threads and lets go of weights and cache."""
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        self._finalizer()
        self._plan.forget()

    # --- watching a step --------------------------------------------------------------------------

    def observe(self, batch: Batch, wanted: Collection[str] = PROBES) -> Observation:
        """Runs one step as `forward` does, with the same logits and the same KV cache, and watches it.

        The first call loads a second compiled step, and compiles it if it was never needed before.
        For times that are those of the plain step, want nothing.

        Args:
            batch: The step.
            wanted: Names out of `PROBES`.

        Raises:
            UsageError: a name is not one of them.
            OutOfMemory: what is wanted does not fit; `observe_bytes` tells before.
        """
        return self._watching().observe(batch, wanted)

    def observe_bytes(self, rows: int, wanted: Collection[str] = PROBES, outputs: int | None = None) -> int:
        """Bytes of what `observe` would return.

        Args:
            rows: Rows of the batch.
            wanted: Names out of `PROBES`.
            outputs: Rows whose logits are wanted; all if left out.

        Raises:
            UsageError: a name is not one of `PROBES`.
        """
        return observation_bytes(self.blueprint.config, rows, rows if outputs is None else outputs, wanted)

    def hidden(self, batch: Batch) -> Float32:
        """Runs one step without the head.

        Returns:
            float32 `[outputs, hidden_size]`: the final norm's result for each of `logits_rows`.
        """
        return self._watching().hidden(batch)

    def head_logits(self, hidden: Float32) -> Float32:
        """Final norm and head of rows of the residual stream: what a layer would have said (logit lens).

        Args:
            hidden: float32 `[n, hidden_size]`, such as `Observation.values["residual"][layer]`.

        Returns:
            float32 `[n, vocab_size]`. For the last layer's rows these are the model's own logits.
        """
        return self._watching().head_logits(hidden)

    def keys_values(self, layer: int, page_table: Int32, length: int) -> tuple[Float32, Float32]:
        """Keys and values of a sequence as the cache holds them, rounded to its type.

        Args:
            layer: Which layer.
            page_table: int32 `[pages]`, the sequence's row of `Batch.page_tables`.
            length: How many positions, from the first one.

        Returns:
            Keys (after QK-norm and RoPE) and values, float32 `[length, num_key_value_heads, head_dim]` each.

        Raises:
            ValueError: a layer, a position or a page that does not exist.
        """
        self._check_open()
        return read_pages(
            self._plan.cache, self.blueprint.config, self.kv_type, layer, page_table, length, self.num_pages
        )

    def _watching(self) -> Observer:
        if self._observer is None:
            self._check_open()
            with self._ledger.growth("runtime"):
                [step] = compiler.load([_step_unit("step_probed", "observed_entry")], self._progress)
            self._observer = Observer(step, self._plan, self._ledger)
        return self._observer

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise BoliError("this model was closed", remedy="load it again")

    def _grow_logits(self, outputs: int) -> None:
        if outputs > len(self._logits):
            # First: wherever Ctrl-C comes, it may be too long, but never too short.
            self._largest = np.empty(self.threads * outputs, np.int64)
            if len(self._logits):
                self._ledger.leave("workspace", self._logits.nbytes)
            width = padded(self.blueprint.config.vocab_size, 32)
            self._logits = self._ledger.allocate("workspace", (outputs, width), np.float32, "logits")
        # In every step: Ctrl-C may have come between a new buffer and its place in the plan.
        self._plan.header.set_logits(self._logits, self._largest)


def _step_unit(name: str, entry: str) -> compiler.Unit:
    """The compiled step, plain or watched."""

    def source() -> Callable[..., Any]:
        from boli.cpu import step  # noqa: PLC0415  imports Numba

        made: Callable[..., Any] = getattr(step, entry)
        return made

    return compiler.Unit(name, 4, source)
