"""Log-probabilities of tokens, as OpenAI's two APIs write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boli.engine.sampling import Sampled

if TYPE_CHECKING:
    from boli.text import Tokenizer

UNLIKELY = -9999.0  # what OpenAI writes where a probability is 0


def finite(logprob: float | None) -> float:
    """A log-probability that JSON can hold."""
    return logprob if logprob is not None and math.isfinite(logprob) else UNLIKELY


def chat_logprobs(tokenizer: Tokenizer, sampled: Sequence[Sampled]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat; `bytes` matter where a token is a part of a character."""
    return {
        "content": [
            {
                **_entry(tokenizer, each.id, each.logprob),
                "top_logprobs": [_entry(tokenizer, token, value) for token, value in each.top],
            }
            for each in sampled
        ],
        "refusal": None,
    }


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {
        "token": data.decode("utf-8", errors="replace"),
        "logprob": finite(logprob),
        "bytes": list(data),
    }


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """A token as a key; one that is no whole character is called by its bytes."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class TextLogprobs:
    """`choices[].logprobs` of a completion, piece by piece: offsets count the text so far.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        self._start: list[tuple[int, Sampled | None]] = []

    def begin(self, prompt_ids: Sequence[int], scores: Sequence[Sampled]) -> None:
        """Puts an echoed prompt in front; its first token has no probability, as nothing comes before."""
        self._start = [(prompt_ids[0], None), *((each.id, each) for each in scores)]

    def add(self, sampled: Sequence[Sampled]) -> dict[str, Any]:
        """The document of the next tokens, and of the prompt before the first of them."""
        tokens: list[str] = []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token, each in [*self._start, *((each.id, each) for each in sampled)]:
            name = token_name(self._tokenizer, token)
            tokens.append(name)
            offsets.append(self._offset)
            self._offset += len(name)
            logprobs.append(None if each is None else finite(each.logprob))
            tops.append(None if each is None else self._likely(each))
        self._start = []
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _likely(self, sampled: Sampled) -> dict[str, float]:
        # The chosen token is among them, as OpenAI has it: whoever asks for 1 may get 2.
        entries = dict(sampled.top) | {sampled.id: sampled.logprob}
        likely: dict[str, float] = {}
        for token, value in entries.items():
            name = token_name(self._tokenizer, token)
            # Several tokens may be written alike; the likeliest, which comes first, has the plain name.
            likely[name if name not in likely else f"token_id:{token}"] = finite(value)
        return likely
