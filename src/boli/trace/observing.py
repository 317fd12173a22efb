"""Goes through a run's tokens again, with probes, and keeps what they see.

The prompt goes through in chunks, then one token a step, as in the run. The logits are those of the run to
the last bit: they depend neither on chunks, nor on neighbours, nor on what came from the cache.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from boli.engine.batch import Batch, Float32, Int32
from boli.trace.attention import attention_weights
from boli.trace.lens import Lens, decision_lens, prompt_lens
from boli.trace.prices import WANTED, Detail

if TYPE_CHECKING:
    from boli.blueprint.config import Config
    from boli.blueprint.weights import Blueprint
    from boli.cpu.probing import Observation
    from boli.engine.loan import Loan
    from boli.engine.record import RunRecord

#: Bytes of one step's observations at most; longer prompts go through in chunks.
_AT_ONCE = 64 << 20
TOP = 5  # tokens that the lens names after each layer


class ProbedRunner(Protocol):
    """What a runner must be able to show."""

    blueprint: Blueprint
    max_rows: int
    kv_type: str

    def observe(self, batch: Batch, wanted: Collection[str] = ...) -> Observation:
        """Runs one step with probes."""

    def observe_bytes(self, rows: int, wanted: Collection[str] = ...) -> int:
        """What that takes."""

    def keys_values(self, layer: int, page_table: Int32, length: int) -> tuple[Float32, Float32]:
        """Keys and values of one layer, as the cache holds them."""

    def head_logits(self, hidden: Float32) -> Float32:
        """Final norm and head."""


@dataclass(slots=True)
class Seen:
    """What was seen where one token was chosen.

    Attributes:
        at: Position of the last token that was read.
        rows: Of the step.
        total: Seconds of the step.
        seconds: By layer and stage.
        other: By name, of what is outside the layers.
        values: Of the row whose logits were wanted, by probe: `[layers, size]` or `[size]`.
        logits: float32 `[vocab_size]`.
        lens: After each layer.
        attention: float32 `[layers, heads, at + 1]`, or None.
    """

    at: int
    rows: int
    total: float
    seconds: NDArray[np.float64]
    other: dict[str, float]
    values: dict[str, Float32]
    logits: Float32
    lens: Lens
    attention: Float32 | None = None


@dataclass(slots=True)
class Evidence:
    """What was seen of a run.

    Attributes:
        decisions: Of each generated token.
        stage_names: What a layer's seconds are of.
        prompt_steps: Rows, first position and seconds of each chunk of the prompt.
        prompt_values: By probe, of all prompt tokens but the last, in `full` detail:
            `[layers, tokens, size]` or `[tokens, size]`.
        prompt_attention: Of the same, float32 `[layers, heads, tokens, tokens]`.
        prompt_top: The likeliest token after each layer at each position of the prompt: ids and
            probabilities `[tokens, layers]`; None in `summary`.
        pages: The page of each part of the sequence.
        evicted: Cached pages that were given up for the replay.
        seconds: That it all took.
    """

    decisions: list[Seen] = field(default_factory=list)
    stage_names: tuple[str, ...] = ()
    prompt_steps: list[tuple[int, int, float]] = field(default_factory=list)
    prompt_values: dict[str, Float32] = field(default_factory=dict)
    prompt_attention: Float32 | None = None
    prompt_top: tuple[NDArray[np.int32], Float32] | None = None
    pages: list[int] = field(default_factory=list)
    evicted: int = 0
    seconds: float = 0.0


def observe(runner: ProbedRunner, loan: Loan, run: RunRecord, detail: Detail) -> Evidence:
    """Replays a run.

    Args:
        runner: Of the engine that lends.
        loan: Pages for all tokens but the last, which nobody reads.
        run: What to replay; at least one token was generated.
        detail: How much to keep.
    """
    return _Replay(runner, loan, run, detail).go()


class _Replay:
    def __init__(self, runner: ProbedRunner, loan: Loan, run: RunRecord, detail: Detail) -> None:
        self._runner, self._loan, self._detail = runner, loan, detail
        self._config: Config = runner.blueprint.config
        self._ids, self._length = list(run.token_ids), run.prompt_length
        self._wanted = WANTED[detail]
        self._prompt: list[dict[str, Float32]] = []
        self._tops: list[tuple[NDArray[np.int32], Float32]] = []
        self._found = Evidence(pages=loan.table.entries[: len(loan.table)].tolist(), evicted=loan.evicted)

    def go(self) -> Evidence:
        start = time.perf_counter()
        for first, end in self._chunks():
            seen = self._step(first, end, outputs=int(end == self._length))
            self._keep_prompt(seen, end)
        for at in range(self._length, len(self._ids) - 1):
            self._step(at, at + 1, outputs=1)
        self._join_prompt()
        if self._detail != "summary":
            self._attend()
        self._found.seconds = time.perf_counter() - start
        return self._found

    def _chunks(self) -> list[tuple[int, int]]:
        rows = min(self._length, self._runner.max_rows)
        while rows > 1 and self._runner.observe_bytes(rows, self._wanted) > _AT_ONCE:
            rows //= 2
        return [(start, min(start + rows, self._length)) for start in range(0, self._length, rows)]

    def _step(self, first: int, end: int, *, outputs: int) -> dict[str, Float32]:
        """Observes one step, and the decision at its end if there is one."""
        seen = self._loan.run(
            self._ids[first:end], first, outputs, lambda batch: self._runner.observe(batch, self._wanted)
        )
        # The step's own clock: waiting for the engine, and making room for what is seen, are no part of it.
        total = float(seen.seconds.sum()) + sum(seen.other_seconds.values())
        self._found.stage_names = seen.stage_names
        if end <= self._length:
            self._found.prompt_steps.append((end - first, first, total))
        if outputs:
            last = {
                name: values if name == "final_norm" else values[..., -1, :]
                for name, values in seen.values.items()
            }
            values = {
                name: np.array(each[0] if name == "final_norm" else each) for name, each in last.items()
            }
            self._found.decisions.append(
                Seen(
                    at=end - 1,
                    rows=end - first,
                    total=total,
                    seconds=seen.seconds,
                    other=dict(seen.other_seconds),
                    values=values,
                    logits=np.array(seen.logits[0]),
                    lens=decision_lens(
                        self._head, self._config.vocab_size, values["residual"], self._ids[end], TOP
                    ),
                )
            )
        return seen.values

    def _head(self, states: Float32) -> Float32:
        return self._loan.use(lambda: self._runner.head_logits(np.ascontiguousarray(states)))

    def _keys(self, layer: int, length: int) -> Float32:
        return self._loan.use(lambda: self._runner.keys_values(layer, self._loan.table.entries, length))[0]

    def _keep_prompt(self, seen: dict[str, Float32], end: int) -> None:
        if self._detail != "summary":
            self._tops.append(prompt_lens(self._head, self._config.vocab_size, seen["residual"]))
        if self._detail == "full":
            # The last prompt token is where the first decision is made, and kept there.
            rows = slice(None, -1 if end == self._length else None)
            self._prompt.append(
                {name: np.array(v[..., rows, :]) for name, v in seen.items() if name != "final_norm"}
            )

    def _join_prompt(self) -> None:
        if self._tops:
            ids, shares = zip(*self._tops, strict=True)
            self._found.prompt_top = np.concatenate(ids), np.concatenate(shares)
        if self._prompt:
            self._found.prompt_values = {
                name: np.concatenate([part[name] for part in self._prompt], axis=-2)
                for name in self._prompt[0]
            }

    def _attend(self) -> None:
        """Attention weights of the decisions, in `full` detail of the prompt too: a layer at a time."""
        config, found, length = self._config, self._found, len(self._ids) - 1
        for seen in found.decisions:
            shape = (config.num_hidden_layers, config.num_attention_heads, seen.at + 1)
            seen.attention = np.empty(shape, np.float32)
        before = self._length - 1
        if self._detail == "full":
            shape4 = (config.num_hidden_layers, config.num_attention_heads, before, before)
            found.prompt_attention = np.empty(shape4, np.float32)
        for layer in range(config.num_hidden_layers):
            keys = self._keys(layer, length)
            for seen in found.decisions:
                assert seen.attention is not None
                queries, at = seen.values["q_rotated"][layer][None], np.array([seen.at])
                seen.attention[layer] = attention_weights(
                    config, layer, queries, keys[: seen.at + 1], at, self._runner.kv_type
                )[:, 0]
            if found.prompt_attention is not None and before:
                found.prompt_attention[layer] = attention_weights(
                    config, layer, found.prompt_values["q_rotated"][layer], keys[:before], np.arange(before),
                    self._runner.kv_type,
                )  # fmt: skip
