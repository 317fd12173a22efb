"""Runs the watched step: a team, a header and tables of its own, over the runner's weights and cache."""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from boli.cpu import plan as p
from boli.cpu.compiler import Function
from boli.cpu.layouts import padded
from boli.cpu.planning import Plan
from boli.cpu.probing import PLACES, STAGES, Observation, observation_bytes, shapes
from boli.cpu.team import Team, control_words

if TYPE_CHECKING:
    from boli.engine.batch import Batch, Float32
    from boli.engine.ledger import Ledger


class Observer:
    """The watched step of one runner; not while the plain one runs.

    Args:
        entry: The compiled `step.observed_entry`.
        plan: The runner's plan. Of its header a copy is used.
        ledger: Where buffers are entered.
    """

    def __init__(self, entry: Function, plan: Plan, ledger: Ledger) -> None:
        self._config, self._ledger, self._residual = plan.blueprint.config, ledger, plan.residual
        layers = self._config.num_hidden_layers
        self._header = plan.header.copy()
        self._watched = np.zeros((len(PLACES), p.SEEN_WORDS), np.int64)
        # The number of stamps, and room; then seconds and nanoseconds of each.
        self._stamps = np.zeros((1 + 3 + layers * len(STAGES), 2), np.int64)
        control = ledger.allocate("workspace", control_words(plan.threads), np.int64, zero=True)
        for field, table in ((p.WATCHED, self._watched), (p.STAMPS, self._stamps), (p.CONTROL, control)):
            self._header.set(field, table)
        self._team = Team(entry, control, self._header.words, plan.threads)
        self._finalizer = weakref.finalize(self, Team.close, self._team)

    def observe(self, batch: Batch, wanted: Collection[str]) -> Observation:
        """See `CpuRunner.observe`."""
        rows, outputs = len(batch.token_ids), len(batch.logits_rows)
        layers, config = self._config.num_hidden_layers, self._config
        arrays = self._header.describe(batch)
        values = self._watch(shapes(config, rows, outputs, wanted))
        logits = self._allocate((outputs, padded(config.vocab_size, 32)))
        self._run(layers, logits)
        del arrays  # until here compiled code read them
        times = self._stamps[1:] @ np.array([10**9, 1])
        seconds = np.diff(times) / 1e9
        return Observation(
            logits=logits[:, : config.vocab_size],
            values=values,
            stage_names=STAGES,
            seconds=seconds[1:-1].reshape(layers, len(STAGES)),
            other_seconds={"embedding": float(seconds[0]), "head": float(seconds[-1])},
            nbytes=observation_bytes(config, rows, outputs, wanted),
        )

    def hidden(self, batch: Batch) -> Float32:
        """See `CpuRunner.hidden`."""
        arrays = self._header.describe(batch)
        wanted = shapes(self._config, len(batch.token_ids), len(batch.logits_rows), ["final_norm"])
        values = self._watch(wanted)
        self._run(self._config.num_hidden_layers, None)
        del arrays  # until here compiled code read them
        return values["final_norm"]

    def head_logits(self, hidden: Float32) -> Float32:
        """See `CpuRunner.head_logits`: a step of no rows and no layers, which has only a head."""
        hidden = np.asarray(hidden, np.float32)
        size, vocabulary = self._config.hidden_size, self._config.vocab_size
        if hidden.ndim != 2 or hidden.shape[1] != size:
            raise ValueError(f"hidden is of shape {hidden.shape}, not [n, {size}]")
        self._watch({})
        logits = self._allocate((len(hidden), padded(vocabulary, 32)))
        order = np.arange(len(self._residual), dtype=np.int32)
        self._header.set(p.OUTPUT_ROWS, order)
        self._header.set(p.ROWS, 0)
        for start in range(0, len(hidden), len(order)):
            part = hidden[start : start + len(order)]
            self._residual[: len(part), :size] = part
            self._header.set(p.OUTPUTS, len(part))
            self._run(0, logits[start:])
        return logits[:, :vocabulary]

    def close(self) -> None:
        """Ends the threads."""
        self._finalizer()
        self._residual = self._residual[:0]

    def _watch(self, wanted: dict[str, tuple[int, ...]]) -> dict[str, Float32]:
        """Arrays of some shapes, and their addresses in the table."""
        room = self._allocate((sum(math.prod(shape) for shape in wanted.values()),))
        values: dict[str, Float32] = {}
        self._watched[:] = 0
        for name, shape in wanted.items():
            size = math.prod(shape)
            values[name], room = room[:size].reshape(shape), room[size:]
            layer = shape[-2] * shape[-1] * 4 if len(shape) == 3 else 0
            row = self._watched[PLACES[name] // (p.SEEN_WORDS * p.WORD)]
            row[:] = values[name].ctypes.data, shape[-1], shape[-1] * 4, layer
        return values

    def _allocate(self, shape: tuple[int, ...]) -> Float32:
        """Memory that is in the books for as long as anybody holds it."""
        array = self._ledger.allocate("workspace", shape, np.float32, "what is seen of a step")
        weakref.finalize(array.base, self._ledger.leave, "workspace", array.nbytes).atexit = False
        return array

    def _run(self, layers: int, logits: Float32 | None) -> None:
        self._header.set(p.LAYERS, layers)
        if logits is None:
            self._header.set(p.LOGITS, 0)
        else:
            self._header.set_logits(logits)
        self._stamps[0, 0] = 0
        self._team.run()
