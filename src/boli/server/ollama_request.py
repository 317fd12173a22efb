"""What a client sends to Ollama's routes, and the same as a chat completion's body."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from boli.engine.params import MAX_SEED
from boli.server.limits import (
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TEXTS,
    MAX_TOOLS,
    MAX_WHOLE_NUMBER,
)
from boli.server.retelling import Document
from boli.server.sampling_fields import BoliOptions, Penalty, StopText
from boli.server.unions import LIST, TEXT, TEXT_OR_LIST
from boli.server.wire import Name, Wire

# What Ollama takes where a client says nothing.
_TEMPERATURE, _TOP_K, _TOP_P = 0.8, 40, 0.9

Off = Annotated[float, Field(ge=1, le=1)]  # a filter that boli has not, in the position that filters nothing

_NO_IMAGES = "this model reads text only"


class OllamaWire(Wire):
    """What an Ollama client sends, where null is the same as nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


class Options(OllamaWire):
    """How tokens are chosen. What Ollama sets when it loads a model is set when boli's server starts."""

    tolerated = frozenset(
        {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "numa", "low_vram",
         "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only", "penalize_newline",
         "mirostat_tau", "mirostat_eta"}
    )  # fmt: skip
    temperature: Annotated[float, Field(ge=0, le=2)] = _TEMPERATURE
    top_k: Annotated[int, Field(ge=-1, le=MAX_WHOLE_NUMBER)] = _TOP_K
    top_p: Annotated[float, Field(ge=0, le=1)] = _TOP_P
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Off = 1.0
    tfs_z: Off = 1.0
    mirostat: Literal[0] = 0
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=MAX_WHOLE_NUMBER)] = -1
    stop: (
        Annotated[
            Annotated[StopText, TEXT] | Annotated[list[StopText], Field(max_length=MAX_STOPS), LIST],
            TEXT_OR_LIST,
        ]
        | None
    ) = None
    repeat_last_n: Literal[-1] = -1  # the whole text
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0

    def chat(self) -> Document:
        """As fields of a chat completion."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": self.seed,
            "max_completion_tokens": self.num_predict if self.num_predict > 0 else None,
            "stop": self.stop or None,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }


class Generating(OllamaWire):
    """What `/api/chat` and `/api/generate` have in common."""

    tolerated = frozenset({"keep_alive", "truncate", "shift"})
    refused: ClassVar[dict[str, str]] = {"images": _NO_IMAGES}

    model: Name
    stream: bool | None = None
    options: Options = Options()
    format: Literal["", "json"] | Document | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    boli: BoliOptions | None = None

    @field_validator("think")
    @classmethod
    def _thinks_not(cls, value: bool | str | None) -> bool | str | None:
        if value:
            raise PydanticCustomError(
                "thoughts", "it must be false: boli does not tell a model's thoughts from its answer"
            )
        return value

    def _chat(self, messages: list[Document]) -> Document:
        body = {"messages": messages, **self.options.chat()}
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.format == "json":
            body["response_format"] = {"type": "json_object"}
        elif isinstance(self.format, dict):
            schema = {"name": "format", "schema": self.format, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if value is not None}


class CalledFunction(OllamaWire):
    """A function and its arguments, which are an object here."""

    tolerated = frozenset({"index", "description"})

    name: Name
    arguments: Document


class Call(OllamaWire):
    """A call in an assistant's message."""

    tolerated = frozenset({"type", "index"})

    id: Name | None = None
    function: CalledFunction


class Message(OllamaWire):
    """One message of a conversation."""

    refused: ClassVar[dict[str, str]] = {"images": _NO_IMAGES}
    tolerated = frozenset({"thinking"})

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: Annotated[list[Call], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: Name | None = None
    tool_call_id: Name | None = None


class ChatBody(Generating):
    """What `/api/chat` takes."""

    messages: Annotated[list[Message], Field(max_length=MAX_MESSAGES, default_factory=list)]
    tools: Annotated[list[Document], Field(max_length=MAX_TOOLS)] | None = None

    def chat(self) -> Document:
        """The body of the chat completion that asks for the same."""
        body = self._chat(_messages(self.messages))
        return body | ({"tools": self.tools} if self.tools else {})


class GenerateBody(Generating):
    """What `/api/generate` takes."""

    refused: ClassVar[dict[str, str]] = {
        "images": _NO_IMAGES,
        "suffix": "this model continues a text, and cannot fill a gap",
        "template": "templates in requests are not rendered",
        "context": "send the conversation to /api/chat",
        "width": "this model writes text only",
        "height": "this model writes text only",
        "steps": "this model writes text only",
    }

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None

    def chat(self) -> Document:
        """The body of the chat completion that asks for the same."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self._chat([*system, {"role": "user", "content": self.prompt}])

    def plain(self) -> Document:
        """The body of the completion that continues the prompt as it stands."""
        body = self._chat([])
        del body["messages"]
        body["max_tokens"] = body.pop("max_completion_tokens", None)
        body["logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        body.pop("top_logprobs", None)
        body["prompt"] = self.prompt
        return {name: value for name, value in body.items() if value is not None}


class EmbedBody(OllamaWire):
    """What `/api/embed` takes.

    A text that is longer than the context is cut at its end, unless `truncate` is false.
    """

    tolerated = frozenset({"keep_alive", "options"})

    model: Name
    input: Annotated[
        Annotated[str, TEXT] | Annotated[list[str], Field(max_length=MAX_TEXTS), LIST], TEXT_OR_LIST
    ]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_WHOLE_NUMBER)] | None = None


class ShowBody(OllamaWire):
    """What `/api/show` takes; older clients call the model `name`."""

    tolerated = frozenset({"verbose", "system", "template", "options"})

    model: Name | None = None
    name: Name | None = None


def _messages(messages: list[Message]) -> list[Document]:
    """Messages as a chat completion has them: there every call has an id, and every result names its call."""
    written: list[Document] = []
    open_calls: list[tuple[str, str]] = []  # id and name of the calls that have no result yet
    for message in messages:
        document: Document = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = [_call(call) for call in message.tool_calls]
            document["tool_calls"] = calls
            open_calls = [(call["id"], call["function"]["name"]) for call in calls]
        if message.role == "tool":
            document |= _result(message, open_calls)
        written.append(document)
    return written


def _call(call: Call) -> Document:
    arguments = json.dumps(call.function.arguments, ensure_ascii=False)
    identifier = call.id or f"call_{secrets.token_hex(8)}"
    return {
        "id": identifier,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _result(message: Message, open_calls: list[tuple[str, str]]) -> Document:
    """The call that a result belongs to: the one it names, or the first of its function, or the first."""
    known = {"name": message.tool_name} if message.tool_name else {}
    if message.tool_call_id is not None:
        return known | {"tool_call_id": message.tool_call_id}
    named = [call for call in open_calls if call[1] == message.tool_name] or open_calls
    if not named:
        return known
    chosen = named[0]
    open_calls.remove(chosen)
    return known | {"tool_call_id": chosen[0]}
