"""What a user may ask of sampling, checked once at the border."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TypedDict

from boli.errors import SamplingError

MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_LOGPROBS = 20
MAX_SEED = 2**64 - 1
MAX_BIASES = 1024
MAX_BIAS = 100.0


class SamplingOptions(TypedDict, total=False):
    """The keyword arguments that `generate`, `stream`, `chat` and `send` take; see `SamplingParams`."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: str | Iterable[str]
    logprobs: int | None
    ignore_eos: bool
    logit_bias: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when a request ends.

    The order in which the settings act is described in `boli.engine.sampling`.

    Attributes:
        max_tokens: How many tokens to generate at most, from 1; what does not fit into the context
            is not generated.
        temperature: 0 takes the most likely token (greedy). Above 0 logits are divided by it.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of most likely tokens whose probabilities sum to at least this,
            in (0, 1]; 1 keeps all.
        min_p: Keep tokens at least this many times as likely as the most likely one, in [0, 1].
        repetition_penalty: Above 0. Logits of tokens in the prompt or the output are divided by it
            if positive and multiplied if negative; 1 changes nothing.
        presence_penalty: In [-2, 2]; subtracted once from the logits of generated tokens.
        frequency_penalty: In [-2, 2]; subtracted once for each time that a token was generated.
        seed: 0 to 2**64 - 1. None draws one; it is in the result, so the run can be repeated.
        stop: Up to 16 strings of 1 to 256 characters that end the output; a single string is taken
            as one. The text ends before the one that was found.
        logprobs: None for none; otherwise the log-probability of each token and of this many of the
            most likely ones, 0 to 20.
        ignore_eos: Go on after an end-of-generation token.
        logit_bias: What is added to the logits of tokens, by id; up to 1,024 entries in [-100, 100]. A
            mapping, its ids perhaps written as strings, is kept as pairs in order of id. -100 all but
            bans a token, 100 all but forces it.

    Raises:
        SamplingError: A value has the wrong type, is out of range, or contradicts another.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        self._integer("max_tokens", low=1)
        self._integer("top_k", low=0)
        self._integer("seed", low=0, high=MAX_SEED, optional=True)
        self._integer("logprobs", low=0, high=MAX_LOGPROBS, optional=True)
        self._number("temperature", low=0.0)
        self._number("top_p", low=0.0, high=1.0, above=True)
        self._number("min_p", low=0.0, high=1.0)
        self._number("repetition_penalty", low=0.0, above=True)
        self._number("presence_penalty", low=-2.0, high=2.0)
        self._number("frequency_penalty", low=-2.0, high=2.0)
        if not isinstance(self.ignore_eos, bool):
            raise SamplingError(f"ignore_eos must be true or false, not {self.ignore_eos!r}")
        object.__setattr__(self, "stop", _stops(self.stop))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        self._refuse_idle_filters()

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> SamplingParams:
        """Builds the settings from names and values that a user wrote.

        Raises:
            SamplingError: A name is unknown (the nearest known one is named) or a value is wrong.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise SamplingError(
                    f"there is no sampling setting {name!r}",
                    remedy=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}",
                )
        return cls(**options)  # type: ignore[arg-type]  # __post_init__ checks the types

    def _integer(self, name: str, *, low: int, high: int | None = None, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise SamplingError(f"{name} must be a whole number, not {value!r}")
        number = int(value)
        if number < low or (high is not None and number > high):
            reach = f"at least {low}" if high is None else f"between {low} and {high}"
            raise SamplingError(f"{name} must be {reach}, not {number}")
        object.__setattr__(self, name, number)

    def _number(self, name: str, *, low: float, high: float = math.inf, above: bool = False) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise SamplingError(f"{name} must be a number, not {value!r}")
        number = _float(value)
        if not math.isfinite(number) or number < low or number > high or (above and number == low):
            reach = f"above {low:g}" if above else f"at least {low:g}"
            reach += "" if high == math.inf else f" and at most {high:g}"
            raise SamplingError(f"{name} must be {reach}, not {value}")
        object.__setattr__(self, name, number)

    def _refuse_idle_filters(self) -> None:
        """Refuses filters at temperature 0 that would do nothing, rather than ignore them."""
        if self.temperature > 0.0:
            return
        idle = [
            name
            for name, asked in (
                ("top_k", self.top_k > 1),
                ("top_p", self.top_p < 1.0),
                ("min_p", self.min_p > 0.0),
            )
            if asked
        ]
        if idle:
            names = " and ".join(f"{name}={getattr(self, name)}" for name in idle)
            raise SamplingError(
                f"{names} contradicts temperature=0",
                cause="at temperature 0, the default, the most likely token is always taken",
                remedy=f"set temperature above 0, for example 0.8, or leave out {' and '.join(idle)}",
            )


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _stops(stop: object) -> tuple[str, ...]:
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, Iterable):
        raise SamplingError(f"stop must be strings, not {stop!r}")
    stops = tuple(stop)
    if len(stops) > MAX_STOPS:
        raise SamplingError(f"there may be at most {MAX_STOPS} stop strings, not {len(stops)}")
    for text in stops:
        if not isinstance(text, str):
            raise SamplingError(f"stop must be strings, not {text!r}")
        if not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise SamplingError(
                f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, not {len(text)}",
                cause="the empty string is found everywhere" if not text else "",
            )
    return stops


def _biases(given: object) -> tuple[tuple[int, float], ...]:
    pairs = given.items() if isinstance(given, Mapping) else given
    if isinstance(pairs, str) or not isinstance(pairs, Sized) or not isinstance(pairs, Iterable):
        raise SamplingError(f"logit_bias must map token ids to numbers, not {given!r}")
    if len(pairs) > MAX_BIASES:
        raise SamplingError(f"logit_bias may have at most {MAX_BIASES:,} entries, not {len(pairs):,}")
    biases: dict[int, float] = {}
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise SamplingError(f"logit_bias must map token ids to numbers, not hold {pair!r}")
        token, bias = pair
        if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 10:
            token = int(token)  # JSON has no other keys
        if isinstance(token, bool) or not isinstance(token, Integral) or token < 0:
            raise SamplingError(f"logit_bias is by token id, a whole number from 0, not {token!r}")
        if isinstance(bias, bool) or not isinstance(bias, Real) or not abs(_float(bias)) <= MAX_BIAS:
            raise SamplingError(
                f"logit_bias of token {token} must be a number between -100 and 100, not {bias!r}"
            )
        if int(token) in biases:
            raise SamplingError(f"logit_bias names token {token} twice")
        biases[int(token)] = float(bias)
    return tuple(sorted(biases.items()))
