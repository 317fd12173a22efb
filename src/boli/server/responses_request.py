"""What a client sends to `/v1/responses`, and the same as a chat completion's body."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from boli.server.limits import MAX_LOGPROBS, MAX_MESSAGES, MAX_PARTS, MAX_TOOLS
from boli.server.sampling_fields import BoliOptions, Positive
from boli.server.unions import LIST, TEXT, TEXT_OR_LIST
from boli.server.wire import Name, Wire

Document = dict[str, Any]

_STATELESS = "boli keeps nothing between requests; send the whole conversation as input"


class TextPart(Wire):
    """Text, as it goes in or as it came out."""

    tolerated = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(Wire):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


def _part_kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return "(text)"
    return "(refusal)" if kind == "refusal" else None


Part = Annotated[
    Annotated[TextPart, Tag("(text)")] | Annotated[RefusalPart, Tag("(refusal)")],
    Discriminator(
        _part_kind,
        custom_error_type="part",
        custom_error_message="boli reads text: a part must be input_text, output_text or refusal",
    ),
]
Content = Annotated[
    Annotated[str, TEXT] | Annotated[list[Part], Field(max_length=MAX_PARTS), LIST], TEXT_OR_LIST
]


class MessageItem(Wire):
    """A message."""

    tolerated = frozenset({"id", "status", "phase"})

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(Wire):
    """A function that the model called."""

    tolerated = frozenset({"id", "status"})

    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str


class OutputItem(Wire):
    """What a function gave."""

    tolerated = frozenset({"id", "status", "name"})

    type: Literal["function_call_output"]
    call_id: Name
    output: Content


def _item_kind(item: Any) -> str | None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    return f"({kind})" if kind in ("message", "function_call", "function_call_output") else None


Item = Annotated[
    Annotated[MessageItem, Tag("(message)")]
    | Annotated[CallItem, Tag("(function_call)")]
    | Annotated[OutputItem, Tag("(function_call_output)")],
    Discriminator(
        _item_kind,
        custom_error_type="item",
        custom_error_message=(
            "an item must be a message, function_call or function_call_output; "
            "boli keeps nothing that others could refer to, and has no tools of its own"
        ),
    ),
]


Input = Annotated[
    Annotated[str, Field(min_length=1), TEXT]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES), LIST],
    TEXT_OR_LIST,
]


class FunctionTool(Wire):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Document | None = None
    strict: bool | None = None

    def chat(self) -> Document:
        """As a chat completion has it."""
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


def _tool_kind(tool: Any) -> str | None:
    return "(function)" if isinstance(tool, dict) and tool.get("type") == "function" else None


Tool = Annotated[
    Annotated[FunctionTool, Tag("(function)")],
    Discriminator(
        _tool_kind,
        custom_error_type="tool",
        custom_error_message="boli has no tools of its own: each must be of type function",
    ),
]


class FunctionChoice(Wire):
    """The one function that must be called."""

    type: Literal["function"]
    name: Name


class TextOptions(Wire):
    """How the text is to be."""

    refused: ClassVar[dict[str, str]] = {
        "verbosity": "boli has no means to make a model brief: say so in the instructions"
    }

    format: Document | None = None

    @field_validator("format")
    @classmethod
    def _is_known(cls, value: Document | None) -> Document | None:
        if value is not None and value.get("type") not in ("text", "json_object", "json_schema"):
            raise PydanticCustomError(
                "format", "it must be of type text, json_object or json_schema", {"field": "type"}
            )
        return value

    def chat(self) -> Document | None:
        """As a chat completion's `response_format`, where a schema lies one level deeper."""
        if self.format is None or self.format["type"] == "text":
            return None
        if self.format["type"] == "json_object":
            return self.format
        rest = {name: value for name, value in self.format.items() if name != "type"}
        return {"type": "json_schema", "json_schema": rest}


class ResponsesRequest(Wire):
    """What `/v1/responses` takes.

    A response is not kept: `store` must not be true, and `previous_response_id`, `conversation` and
    `background` are refused.
    """

    tolerated = frozenset(
        {"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
         "service_tier", "stream_options", "max_tool_calls"}
    )  # fmt: skip
    refused: ClassVar[dict[str, str]] = {
        "previous_response_id": _STATELESS,
        "conversation": _STATELESS,
        "prompt": "boli keeps no templates of prompts: send instructions and input",
        "reasoning": "boli does not tell a model's thoughts from its answer",
        "context_management": "boli never shortens a conversation",
        "moderation": "boli does not moderate",
    }

    model: Name | None = None
    input: Input
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[Name, str], Field(max_length=16)] | None = None

    boli: BoliOptions | None = None

    @field_validator("store", "background")
    @classmethod
    def _keeps_nothing(cls, value: bool | None) -> bool | None:
        if value:
            raise PydanticCustomError("stateless", "it must be false: {why}", {"why": _STATELESS})
        return value

    @field_validator("truncation")
    @classmethod
    def _cuts_nothing(cls, value: str | None) -> str | None:
        if value == "auto":
            raise PydanticCustomError("whole", "it must be disabled: boli never shortens a conversation")
        return value

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are asked for, in either of the two ways."""
        return self.top_logprobs is not None or "message.output_text.logprobs" in (self.include or ())

    def chat(self) -> Document:
        """The body of the chat completion that asks for the same."""
        body: Document = {
            "model": self.model,
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "parallel_tool_calls": self.parallel_tool_calls,
            "tool_choice": self.tool_choice,
        }
        if self.wants_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        if isinstance(self.tool_choice, FunctionChoice):
            body["tool_choice"] = {"type": "function", "function": {"name": self.tool_choice.name}}
        if self.tools:
            body["tools"] = [tool.chat() for tool in self.tools]
        if self.text is not None:
            body["response_format"] = self.text.chat()
        return {name: value for name, value in body.items() if value is not None}

    def facts(self, model: str) -> Document:
        """What a response repeats of its request."""
        asked = self.model_dump(exclude_none=True)
        return {
            "model": model,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "background": False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_logprobs": self.top_logprobs or 0,
            "text": {"format": {"type": "text"}} | asked.get("text", {}),
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": [
                {"parameters": None, "strict": None, "description": None} | tool
                for tool in asked.get("tools", ())
            ],
            "truncation": "disabled",
        }

    def _messages(self) -> list[Document]:
        messages: list[Document] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, MessageItem):
                messages.append({"role": item.role, "content": _text(item.content)})
            elif isinstance(item, OutputItem):
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            else:
                # What an assistant said and the calls after it are one message of a chat.
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                call = {"name": item.name, "arguments": item.arguments}
                calls = messages[-1].setdefault("tool_calls", [])
                calls.append({"id": item.call_id, "type": "function", "function": call})
        return messages


def _text(content: str | list[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
