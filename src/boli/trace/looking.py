"""The parts of a trace, as a program asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from boli.engine.batch import Float32
from boli.engine.params import SamplingOptions, SamplingParams
from boli.errors import UsageError
from boli.trace.arrays import unpacked
from boli.trace.chain import follow
from boli.trace.sieve import describe_chain

if TYPE_CHECKING:
    from boli.trace.api import Trace


@dataclass(frozen=True, slots=True)
class LensWall:
    """The logit lens of all decisions. Entry `layers` repeats the last layer: what comes out in the end.

    Attributes:
        text: The likeliest token, `[decisions][layers + 1]`.
        rank: How many tokens are likelier than the chosen one, int32 `[decisions, layers + 1]`.
        probability: Of the chosen one, float32 `[decisions, layers + 1]`.
        first_leads: The layer from which on the chosen token stays first; None if it never does.
    """

    text: list[list[str]]
    rank: NDArray[np.int32]
    probability: Float32
    first_leads: list[int | None]


class Step:
    """One decision: what was read, and what came of it."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace, self._number = trace, number
        self.data: Mapping[str, Any] = trace._document["decisions"][number]

    @property
    def at(self) -> int:
        """Position of the last token that was read."""
        return int(self.data["at"])

    @property
    def token(self) -> int:
        """The token that was chosen."""
        return int(self.data["token"])

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.data["text"])

    @property
    def logprob(self) -> float:
        """Its natural-log probability under the model."""
        return float(self.data["logprob"])

    @property
    def attention(self) -> Float32 | None:
        """Attention of the last token, float32 `[layers, num_attention_heads, at + 1]`; None in `summary`."""
        return self._trace._attention(self._number)

    def value(self, name: str) -> Float32 | None:
        """An intermediate of the last token, float32 `[layers, size]` or `[size]`.

        Args:
            name: A probe, such as `q` or `residual`; or `logits`.

        Returns:
            None if it was not kept; in a trace from a file only `full` detail keeps any.
        """
        if self._trace._live is not None:
            seen = self._trace._live.evidence.decisions[self._number]
            return seen.logits if name == "logits" else seen.values.get(name)
        array = self.data.get("values", {}).get(name)
        return None if array is None else unpacked(array, f"{name} of decision {self._number}")

    def __repr__(self) -> str:
        return f"Step({self._number}: {self.text!r}, at position {self.at}, logprob {self.logprob:.4f})"


class LayerTrace:
    """One layer."""

    def __init__(self, trace: Trace, index: int) -> None:
        self._trace, self.index = trace, index
        self.data: Mapping[str, Any] = trace._document["layers"][index]

    @property
    def window(self) -> int | None:
        """How many positions it sees, itself included; None for all."""
        window = self.data["window"]
        return None if window is None else int(window)

    @property
    def weights(self) -> list[Mapping[str, Any]]:
        """Its matrices and vectors: name, role, shape, type, bytes."""
        return [each for each in self._trace._document["weights"] if each["layer"] == self.index]

    @property
    def attention(self) -> Attention:
        """Who looked where.

        Raises:
            UsageError: The trace has none: it is of `summary` detail.
        """
        if self._trace.detail == "summary":
            raise UsageError("a trace in 'summary' detail has no attention", remedy="take detail 'rows'")
        return Attention(self._trace, self.index)

    def __repr__(self) -> str:
        return f"LayerTrace({self.index}, {self.data['bytes']:,} bytes of weights, window {self.window})"


class Attention:
    """Attention of one layer, by head: weights, not importance."""

    def __init__(self, trace: Trace, layer: int) -> None:
        self._trace, self._layer = trace, layer

    @cached_property
    def weights(self) -> Float32:
        """float32 `[num_attention_heads, decisions, positions]`.

        Row `n` is the token at `positions_of[n]`, where token `n` of the answer was chosen; it sums to 1 over
        the positions up to its own, and is 0 behind it. In a file in `rows` detail weights are rounded to
        multiples of 1/255.
        """
        rows = [self._trace._attention(number) for number in range(len(self._trace.steps))]
        kept = [row[self._layer] for row in rows if row is not None]
        whole = np.zeros((kept[0].shape[0], len(kept), kept[-1].shape[1]), np.float32)
        for number, row in enumerate(kept):
            whole[:, number, : row.shape[1]] = row
        return whole

    @property
    def positions_of(self) -> list[int]:
        """The position of each row's token."""
        return [step.at for step in self._trace.steps]

    @cached_property
    def prompt_weights(self) -> Float32 | None:
        """float32 `[num_attention_heads, rows, rows]`: the prompt's tokens but the last; only in `full`."""
        if self._trace._live is not None:
            whole = self._trace._live.evidence.prompt_attention
        else:
            stored = self._trace._document.get("prompt_attention")
            whole = None if stored is None else unpacked(stored["weights"], "attention of the prompt")
        return None if whole is None else whole[self._layer]


class SamplerStep:
    """How one token was chosen, step by step.

    Attributes:
        data: As `sampler` of the document: candidates with what each step made of them.
    """

    def __init__(self, trace: Trace, number: int, data: Mapping[str, Any] | None = None) -> None:
        self._trace, self._number = trace, number
        self.data: Mapping[str, Any] = (
            trace._document["decisions"][number]["sampler"] if data is None else data
        )

    @property
    def chosen(self) -> int:
        """The token."""
        return int(self.data["chosen"])

    @property
    def text(self) -> str:
        """What it says."""
        return next(str(each["text"]) for each in self.data["candidates"] if each["id"] == self.chosen)

    @property
    def candidates(self) -> list[Mapping[str, Any]]:
        """The likeliest tokens, with what each step made of them."""
        return list(self.data["candidates"])

    @property
    def uniform(self) -> float | None:
        """The random number; None if nothing was drawn."""
        number = self.data["uniform"]
        return None if number is None else float(number)

    def what_if(self, **changes: Unpack[SamplingOptions]) -> SamplerStep:
        """The same logits under other settings: exact, and without running the model.

        Args:
            **changes: Settings of `SamplingParams` in place of the run's. At temperature 0 filters have no
                meaning; those of the run are left out there.

        Raises:
            SamplingError: A setting is wrong.
            UsageError: A trace from a file that was not made in `full` detail has not all logits.
        """
        run, live = self._trace._document["run"], self._trace._live
        if run.get("constraint") is not None and live is None:
            raise UsageError(
                "a trace from a file does not have all tokens that the grammar of the answer forbids",
                remedy="ask the trace before it is saved",
            )
        logits = self._trace._logits(self._number)
        if logits is None:
            raise UsageError(
                "a trace from a file has the likeliest candidates, but not all logits",
                remedy="ask the trace before it is saved, or make it with detail='full'",
            )
        ids = [token["id"] for token in self._trace._document["tokens"]]
        prompt, output = ids[: run["prompt_length"]], ids[run["prompt_length"] :][: self._number]
        known = {field.name for field in fields(SamplingParams)}
        settings = {name: value for name, value in run["sampling"].items() if name in known}
        settings |= changes
        if settings.get("temperature", 0.0) == 0.0:
            idle = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
            settings |= {name: value for name, value in idle.items() if name not in changes}
        params = SamplingParams.from_options(settings)
        seed = run["seed"] if params.seed is None else params.seed
        allowed = None if live is None else live.chains[self._number].allowed
        chain = follow(logits, params, seed=seed, prompt=prompt, output=output, allowed=allowed)
        return SamplerStep(self._trace, self._number, describe_chain(chain, self._told, chain.chosen))

    def _told(self, token: int) -> str:
        return self._trace._told(token)

    def __repr__(self) -> str:
        drawn = "greedy" if self.uniform is None else f"u = {self.uniform:.6f}"
        return f"SamplerStep({self._number}: {self.text!r} of {self.data['kept']} left, {drawn})"
