"""What a client sends to Anthropic's `/v1/messages`, and the same as a chat completion's body."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from boli.server.limits import MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_TOOLS
from boli.server.sampling_fields import BoliOptions, Count, Positive, StopText
from boli.server.unions import LIST, TEXT, TEXT_OR_LIST
from boli.server.wire import Name, Wire

Document = dict[str, Any]


class TextBlock(Wire):
    """Text."""

    tolerated = frozenset({"cache_control", "citations"})

    type: Literal["text"]
    text: str


class ThoughtBlock(Wire):
    """What another model thought, in a conversation that it began. It is left out."""

    tolerated = frozenset({"thinking", "signature", "data"})

    type: Literal["thinking", "redacted_thinking"]


class ToolUseBlock(Wire):
    """A tool that the model used."""

    tolerated = frozenset({"cache_control", "caller"})

    type: Literal["tool_use"]
    id: Name
    name: Name
    input: Document

    def chat(self) -> Document:
        """As a chat completion has it."""
        arguments = json.dumps(self.input, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


_ONLY_TEXT = "boli reads text: images, documents and the results of a provider's own tools are not supported"


class ToolReferenceBlock(Wire):
    """A tool that a client's search has found. All tools are in the prompt already: its name will do."""

    tolerated = frozenset({"cache_control"})

    type: Literal["tool_reference"]
    tool_name: Name

    @property
    def text(self) -> str:
        """What the model reads."""
        return f"{self.tool_name}\n"


def _result_kind(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    return f"({kind})" if kind in ("text", "tool_reference") else None


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("(text)")] | Annotated[ToolReferenceBlock, Tag("(tool_reference)")],
    Discriminator(_result_kind, custom_error_type="block", custom_error_message=_ONLY_TEXT),
]


class ToolResultBlock(Wire):
    """What a tool gave."""

    tolerated = frozenset({"cache_control"})

    type: Literal["tool_result"]
    tool_use_id: Name
    content: Annotated[
        Annotated[str, TEXT] | Annotated[list[ResultBlock], Field(max_length=MAX_PARTS), LIST], TEXT_OR_LIST
    ] = ""
    is_error: bool | None = None

    def chat(self) -> Document:
        """As a chat completion has it, where only words can say that a tool failed."""
        content = ("Error: " if self.is_error else "") + text_of(self.content)
        return {"role": "tool", "tool_call_id": self.tool_use_id, "content": content}


def _block_kind(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind in ("thinking", "redacted_thinking"):
        return "(thought)"
    return f"({kind})" if kind in ("text", "tool_use", "tool_result") else None


Block = Annotated[
    Annotated[TextBlock, Tag("(text)")]
    | Annotated[ThoughtBlock, Tag("(thought)")]
    | Annotated[ToolUseBlock, Tag("(tool_use)")]
    | Annotated[ToolResultBlock, Tag("(tool_result)")],
    Discriminator(_block_kind, custom_error_type="block", custom_error_message=_ONLY_TEXT),
]


class Message(Wire):
    """A turn."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, TEXT] | Annotated[list[Block], Field(max_length=MAX_PARTS), LIST], TEXT_OR_LIST
    ]

    def chat(self) -> list[Document]:
        """As messages of a chat completion: each tool's result is one of its own."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        messages: list[Document] = []
        calls: list[Document] = []
        texts: list[str] = []
        for block in self.content:
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ToolUseBlock):
                calls.append(block.chat())
            elif isinstance(block, ToolResultBlock):
                messages.append(block.chat())
        if texts or calls or not messages:
            content = "".join(texts) if texts or not calls else None
            spoken: Document = {"role": self.role, "content": content}
            messages.append(spoken | ({"tool_calls": calls} if calls else {}))
        return messages


class Tool(Wire):
    """A tool that the client runs."""

    tolerated = frozenset(
        {"cache_control", "allowed_callers", "defer_loading", "eager_input_streaming", "input_examples"}
    )

    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: Document
    strict: bool | None = None

    def chat(self) -> Document:
        """As a chat completion has it."""
        function: Document = {"name": self.name, "parameters": self.input_schema}
        if self.description is not None:
            function["description"] = self.description
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}


class ToolChoice(Wire):
    """Whether, and which, a tool must be used."""

    type: Literal["auto", "any", "none", "tool"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    def chat(self) -> str | Document:
        """As a chat completion has it."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name or ""}}
        return "required" if self.type == "any" else self.type


class OutputConfig(Wire):
    """How the answer is to be. `effort` is about models that think."""

    tolerated = frozenset({"effort"})

    format: Document | None = None

    @field_validator("format")
    @classmethod
    def _is_a_schema(cls, value: Document | None) -> Document | None:
        if value is not None and (value.keys() != {"type", "schema"} or value["type"] != "json_schema"):
            raise PydanticCustomError("format", "it must be of type json_schema, and have a schema")
        return value


class CountRequest(Wire):
    """What `/v1/messages/count_tokens` takes.

    Caching needs no marks here, so `cache_control` is accepted and changes nothing; nor do the settings
    of models that think.
    """

    tolerated = frozenset(
        {
            "cache_control",
            "context_management",
            "inference_geo",
            "metadata",
            "service_tier",
            "speed",
            "thinking",
        }
    )
    refused: ClassVar[dict[str, str]] = {
        "container": "boli runs no code",
        "mcp_servers": "boli connects to nothing",
        "diagnostics": "boli does not compare a request with another",
    }

    model: Name
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: (
        Annotated[
            Annotated[str, TEXT] | Annotated[list[TextBlock], Field(max_length=MAX_PARTS), LIST], TEXT_OR_LIST
        ]
        | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None

    def chat(self) -> Document:
        """The body of the chat completion that asks for the same."""
        body: Document = {"model": self.model, "messages": []}
        if self.system:
            body["messages"].append({"role": "system", "content": text_of(self.system)})
        for message in self.messages:
            body["messages"] += message.chat()
        if self.tools:
            body["tools"] = [tool.chat() for tool in self.tools]
        if self.tool_choice is not None:
            body["tool_choice"] = self.tool_choice.chat()
            if self.tool_choice.disable_parallel_tool_use:
                body["parallel_tool_calls"] = False
        if self.output_config is not None and self.output_config.format is not None:
            schema = {"name": "output", "schema": self.output_config.format["schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


class MessagesRequest(CountRequest):
    """What `/v1/messages` takes."""

    max_tokens: Positive
    stream: bool | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Count | None = None
    boli: BoliOptions | None = None

    @field_validator("messages")
    @classmethod
    def _asks(cls, value: list[Message]) -> list[Message]:
        if value[-1].role == "assistant":
            raise PydanticCustomError(
                "prefill",
                "the last one must not be the assistant's: boli begins an answer, it continues none",
            )
        return value

    def chat(self) -> Document:
        """The body of the chat completion that asks for the same."""
        body = super().chat() | {
            "max_completion_tokens": self.max_tokens,
            "stop": self.stop_sequences or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        return {name: value for name, value in body.items() if value is not None}


def text_of(content: str | Sequence[TextBlock | ToolReferenceBlock]) -> str:
    """The text of blocks, one after the other."""
    return content if isinstance(content, str) else "".join(block.text for block in content)
