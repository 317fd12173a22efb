"""What a client sends to `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from boli.server.formats import FormatFields
from boli.server.limits import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
)
from boli.server.sampling_fields import BoliOptions, Positive, SamplingFields, StreamOptions
from boli.server.tools_wire import Tool, ToolChoice
from boli.server.unions import LIST, TEXT, TEXT_OR_LIST
from boli.server.wire import Name, Wire


class Part(Wire):
    """A piece of a message's content."""

    tolerated = frozenset({"cache_control", "annotations", "id"})

    type: Literal["text", "refusal", "input_text", "output_text"]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in ("text", "refusal", "input_text", "output_text"):
            raise PydanticCustomError(
                "not_text", "content of type {kind} is not supported: this model reads text only",
                {"kind": repr(kind[:40]), "field": "type"},
            )  # fmt: skip
        return data


Content = Annotated[
    Annotated[str, TEXT] | Annotated[list[Part], Field(max_length=MAX_PARTS), LIST], TEXT_OR_LIST
]


class FunctionCall(Wire):
    """The function that an assistant called, with its arguments as JSON text."""

    name: Name
    arguments: str


class ToolCall(Wire):
    """A call in an assistant's message."""

    tolerated = frozenset({"index"})

    id: Name | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Wire):
    """One message of a conversation."""

    tolerated = frozenset({"annotations", "audio", "function_call", "cache_control", "id", "timestamp"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Name | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Name | None = None

    @model_validator(mode="after")
    def _has_something(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError(
                "missing", "a message of the {role} needs content", {"role": self.role, "field": "content"}
            )
        return self

    @property
    def text(self) -> str:
        """The content as one text; parts become paragraphs."""
        if self.content is None:
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text or part.refusal or "" for part in self.content)

    def plain(self) -> dict[str, Any]:
        """The message as chat templates take it, without its tool calls."""
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.text,
        }
        if self.name is not None:
            message["name"] = self.name
        reasoning = self.reasoning_content or self.reasoning
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class TemplateOptions(Wire):
    """The names that a request may set in the chat template; those that a template ignores change nothing."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: Name | None = None
    date_string: Name | None = None


class ChatRequest(SamplingFields, FormatFields):
    """The body of a request for an answer in a conversation."""

    tolerated: ClassVar[frozenset[str]] = frozenset({
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "verbosity", "reasoning_effort",
    })  # fmt: skip
    refused: ClassVar[dict[str, str]] = {
        "functions": "'functions' is OpenAI's old form: use 'tools'",
        "function_call": "'function_call' is OpenAI's old form: use 'tool_choice'",
        "audio": "this model writes text only",
        "prediction": "predicted outputs are not supported; boli guesses by itself where it pays",
        "web_search_options": "this server does not search the web",
        "chat_template": "templates in requests are not rendered",
        "best_of": "'best_of' belongs to /v1/completions",
        "echo": "'echo' belongs to /v1/completions",
    }

    model: Name | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    boli: BoliOptions | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("needs", "top_logprobs needs logprobs: true", {"field": "top_logprobs"})
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "needs", "stream_options is only for stream: true", {"field": "stream_options"}
            )
        return self

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the answer may have; None leaves it to the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many likely tokens are told for each one; None tells nothing of them."""
        return (self.top_logprobs or 0) if self.logprobs else None
