"""Runs the watched step: with a team, a header and tables of its own, over the runner's weights and cache."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from boli.cpu import plan as p
from boli.cpu.compiler import Function
from boli.cpu.layouts import padded
from boli.cpu.planning import Plan
from boli.cpu.probing import PLACES, STAGES, Observation, Shapes, observation_bytes, shapes
from boli.cpu.team import Team, control_words
from boli.errors import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Collection

    from boli.engine.batch import Batch, Float32
    from boli.engine.ledger import Ledger


class Observer:
    """The watched step of one runner. It must not run while the plain one does.

    Everything that a step is told is written before each run: an interrupted one leaves nothing behind.

    Args:
        entry: The compiled `step.observed_entry`.
        plan: The runner's plan. A copy of its header is used.
        ledger: Where buffers are entered.
    """

    def __init__(self, entry: Function, plan: Plan, ledger: Ledger) -> None:
        self._config, self._ledger, self._residual = plan.blueprint.config, ledger, plan.residual
        self._header = plan.header.copy()
        self._header.set(p.LARGEST, None)  # the runner's own: it may have room for fewer rows
        self._head = int(plan.header.words[p.HEAD // p.WORD])
        self._no_head = np.zeros(p.MATRIX_WORDS, np.int64)  # a matrix without rows
        self._watched = np.zeros((len(PLACES), p.SEEN_WORDS), np.int64)
        # One at the start, after the embedding, after each stage, and at the end.
        stamps = 3 + self._config.num_hidden_layers * len(STAGES)
        self._stamps = np.zeros(p.FIRST_STAMP // p.WORD + stamps, np.int64)
        control = ledger.allocate("workspace", control_words(plan.threads), np.int64, zero=True)
        for field, table in ((p.WATCHED, self._watched), (p.STAMPS, self._stamps), (p.CONTROL, control)):
            self._header.set(field, table)
        self._team = Team(entry, control, self._header.words, plan.threads)
        self._finalizer = weakref.finalize(self, Team.close, self._team)

    def observe(self, batch: Batch, wanted: Collection[str]) -> Observation:
        """See `CpuRunner.observe`."""
        config, rows, outputs = self._config, len(batch.token_ids), len(batch.logits_rows)
        found = shapes(config, rows, outputs, wanted)
        nbytes = observation_bytes(config, rows, outputs, wanted)
        arrays = self._header.describe(batch)
        with self._books(nbytes):
            values, logits = self._watch(found), self._room_for_logits(outputs)
            self._run(config.num_hidden_layers, logits)
        del arrays  # until here compiled code read them
        seconds = np.diff(self._stamps[p.FIRST_STAMP // p.WORD :]) / 1e9
        return Observation(
            logits=logits[:, : config.vocab_size],
            values=values,
            stage_names=STAGES,
            seconds=seconds[1:-1].reshape(-1, len(STAGES)),
            other_seconds={"embedding": float(seconds[0]), "head": float(seconds[-1])},
            nbytes=nbytes,
        )

    def hidden(self, batch: Batch) -> Float32:
        """See `CpuRunner.hidden`."""
        found = shapes(self._config, len(batch.token_ids), len(batch.logits_rows), ["final_norm"])
        arrays = self._header.describe(batch)
        with self._books(4 * len(batch.logits_rows) * self._config.hidden_size):
            values = self._watch(found)
            self._run(self._config.num_hidden_layers, None)
        del arrays  # until here compiled code read them
        return values["final_norm"]

    def head_logits(self, hidden: Float32) -> Float32:
        """See `CpuRunner.head_logits`: steps of no rows and no layers, which have only a head."""
        hidden = np.asarray(hidden, np.float32)
        size, vocabulary = self._config.hidden_size, self._config.vocab_size
        if hidden.ndim != 2 or hidden.shape[1] != size:
            raise ValueError(f"hidden is {hidden.shape}, not [n, {size}]")
        order = np.arange(len(self._residual), dtype=np.int32)
        with self._books(4 * len(hidden) * padded(vocabulary, 32)):
            logits = self._room_for_logits(len(hidden))
            self._watch({})
            self._header.set(p.ROWS, 0)
            self._header.set(p.OUTPUT_ROWS, order)
            for start in range(0, len(hidden), len(order)):
                part = hidden[start : start + len(order)]
                self._residual[: len(part), :size] = part
                self._header.set(p.OUTPUTS, len(part))
                self._run(0, logits[start:])
        return logits[:, :vocabulary]

    def close(self) -> None:
        """Ends the threads."""
        self._finalizer()

    def _run(self, layers: int, logits: Float32 | None) -> None:
        self._header.set(p.LAYERS, layers)
        self._header.set(p.HEAD, self._no_head if logits is None else self._head)
        if logits is not None:
            self._header.set_logits(logits)
        self._stamps[:] = 0
        self._team.run()

    def _watch(self, wanted: Shapes) -> dict[str, Float32]:
        """Arrays for what is wanted, and their addresses in the table."""
        values = {name: np.empty(shape, np.float32) for name, shape in wanted.items()}
        self._watched[:] = 0
        for name, array in values.items():
            place = PLACES[name] // (p.SEEN_WORDS * p.WORD)
            layer_stride = array.strides[0] if array.ndim == 3 else 0
            self._watched[place] = array.ctypes.data, array.shape[-1], array.strides[-2], layer_stride
        return values

    def _room_for_logits(self, outputs: int) -> Float32:
        return np.empty((outputs, padded(self._config.vocab_size, 32)), np.float32)

    @contextmanager
    def _books(self, nbytes: int) -> Iterator[None]:
        """Enters what a step is about to fill. Then it is the caller's, and leaves the books."""
        self._ledger.enter("workspace", nbytes, "what is seen of a step")
        try:
            yield
        except MemoryError as error:
            raise OutOfMemory(
                f"what is seen of a step needs {nbytes} bytes, and the system refused them",
                cause="a limit on the process's address space (ulimit -v), or strict accounting of memory",
                remedy="observe fewer rows or fewer values at once",
            ) from error
        finally:
            self._ledger.leave("workspace", nbytes)
