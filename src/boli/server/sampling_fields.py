"""The fields about sampling that several routes share, and what they mean to the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from boli.engine.params import MAX_SEED, SamplingParams
from boli.server.limits import (
    MAX_LOGIT_BIAS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_WHOLE_NUMBER,
)
from boli.server.wire import Wire

Count = Annotated[int, Field(ge=0, le=MAX_WHOLE_NUMBER)]
Positive = Annotated[int, Field(ge=1, le=MAX_WHOLE_NUMBER)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class SamplingFields(Wire):
    """How tokens are chosen; None is the default of OpenAI's API.

    `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are extensions that other servers have too.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_WHOLE_NUMBER)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    ignore_eos: bool | None = None

    def params(self, *, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """The engine's settings.

        Raises:
            SamplingError: They contradict each other.
        """
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "logprobs": logprobs,
            # No probability is left to others where the most likely token is always taken.
            "temperature": temperature if top_p > 0.0 else 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "repetition_penalty": 1.0 if self.repetition_penalty is None else self.repetition_penalty,
            "seed": None if self.seed is None else self.seed % (MAX_SEED + 1),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "ignore_eos": bool(self.ignore_eos),
        }
        if options["temperature"] > 0.0:  # at 0 filters change nothing, and clients send them all the same
            options |= {"top_p": top_p, "top_k": max(0, self.top_k or 0), "min_p": self.min_p or 0.0}
        if self.logit_bias:
            options["logit_bias"] = self.logit_bias
        return SamplingParams.from_options(options)


def varied(params: SamplingParams, count: int) -> list[SamplingParams]:
    """The settings of several answers to one prompt: the first as asked for, each with a seed of its own."""
    if params.seed is None:
        return [params] * count
    return [replace(params, seed=(params.seed + index) % (MAX_SEED + 1)) for index in range(count)]


class StreamOptions(Wire):
    """What else a stream carries."""

    tolerated = frozenset({"include_obfuscation"})

    include_usage: bool = False
    continuous_usage_stats: bool = False


class BoliOptions(Wire):
    """What only boli has; clients send it as extra body `{"boli": {"receipt": true}}`."""

    receipt: bool = False
