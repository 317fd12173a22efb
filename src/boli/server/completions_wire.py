"""What a client sends to `/v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from boli.server.formats import FormatFields
from boli.server.limits import (
    MAX_ANSWERS,
    MAX_BEST_OF,
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_PROMPTS,
)
from boli.server.sampling_fields import BoliOptions, Count, SamplingFields, StreamOptions
from boli.server.wire import Name

Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1)]


def _kind(prompt: Any) -> str:
    """What a prompt is meant to be, so that an error is about that."""
    if not isinstance(prompt, list):
        return "(text)"
    first = prompt[0] if prompt else ""
    return "(lists)" if isinstance(first, list) else "(texts)" if isinstance(first, str) else "(tokens)"


_LIST = Field(min_length=1, max_length=MAX_PROMPTS)
Prompts = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[Tokens, Tag("(tokens)")]
    | Annotated[list[str], _LIST, Tag("(texts)")]
    | Annotated[list[Tokens], _LIST, Tag("(lists)")],
    Discriminator(_kind),
]


class CompletionRequest(SamplingFields, FormatFields):
    """The body of a request to continue texts."""

    tolerated: ClassVar[frozenset[str]] = frozenset({"user", "metadata", "store", "service_tier"})
    refused: ClassVar[dict[str, str]] = {
        "suffix": "'suffix' is not supported: the model continues a text, and cannot fill a gap",
        "messages": "'messages' belongs to /v1/chat/completions",
    }

    model: Name | None = None
    prompt: Prompts
    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_BEST_OF)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None
    boli: BoliOptions | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or several."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def attempts(self) -> int:
        """How many answers are generated for each prompt."""
        return max(self.choices, self.best_of or 1)

    @model_validator(mode="after")
    def _agrees(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < self.choices:
            raise _wrong("best_of", "best_of must be at least n")
        if self.attempts > self.choices and self.stream:
            raise _wrong("best_of", "best_of cannot be streamed: all answers must be known first")
        if len(self.prompts) * self.attempts > MAX_ANSWERS:
            raise _wrong("n", f"prompts times n (or best_of) must not be more than {MAX_ANSWERS}")
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options", "stream_options is only for stream: true")
        if self.max_tokens == 0 and not self.echo:
            raise _wrong("max_tokens", "max_tokens 0 needs echo: true, or there is nothing to reply")
        return self


def _wrong(field: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("disagrees", message, {"field": field})
