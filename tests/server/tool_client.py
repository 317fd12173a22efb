"""The `openai` client of a real server with tools, and a model that says what it is told or is chance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from server.running import Running, toy_server
from server.speaking import Speaker


def tool(name: str, *, strict: bool | None = None, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    function: dict[str, Any] = {"name": name, "description": f"does {name}", "parameters": parameters}
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


WEATHER = tool("weather", strict=True, city={"type": "string", "maxLength": 8})
ADD = tool("add", a={"type": "integer", "minimum": 0, "maximum": 9}, b={"enum": [1, 2, 3]})
TOOLS = [WEATHER, ADD]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
ASKED: dict[str, Any] = {
    "model": "toy", "messages": HELLO, "tools": TOOLS, "max_tokens": 400, "temperature": 0,
}  # fmt: skip
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "上海"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain, 22 degrees"},
]


class Client:
    """The `openai` client of a server, and the model behind it."""

    def __init__(self, server: Running, speaker: Speaker | None) -> None:
        self.server = server
        self.speaker = speaker
        self.openai = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def say(self, text: str) -> None:
        assert self.speaker is not None
        self.speaker.say(text, self.server.llm.tokenizer)

    def send(self, **fields: Any) -> Any:
        """A whole reply."""
        return self.openai.chat.completions.create(**{**ASKED, **fields})

    def ask(self, *, stream: bool = False, **fields: Any) -> Any:
        """An answer's only choice; with `stream` put together from its chunks, which are checked."""
        if not stream:
            return self.send(**fields).choices[0]
        with self.openai.chat.completions.stream(**{**ASKED, **fields}) as events:
            check_chunks([event.chunk for event in events if event.type == "chunk"])
            return events.get_final_completion().choices[0]

    def refused(self, **fields: Any) -> dict[str, Any]:
        """The error of a request that is 400."""
        with pytest.raises(openai.BadRequestError) as caught:
            self.ask(**fields)
        body = caught.value.body
        assert isinstance(body, dict)
        assert body["type"] == "invalid_request_error"
        return body


def check_chunks(chunks: list[Any]) -> None:
    """The first part of a call names it and the others only go on with its arguments."""
    begun: set[int] = set()
    for chunk in chunks:
        for choice in chunk.choices:
            indices = [call.index for call in choice.delta.tool_calls or ()]
            assert len(set(indices)) == len(indices), "a chunk has one part of a call"
            for call in choice.delta.tool_calls or ():
                if call.index not in begun:
                    assert call.id
                    assert call.type == "function"
                    assert call.function.name
                    assert call.index == len(begun)
                    begun.add(call.index)
                else:
                    assert (call.id, call.type, call.function.name) == (None, None, None)


@contextmanager
def client(folder: Path, template: str, *, chance: bool = False, **toy: Any) -> Iterator[Client]:
    speaker = None if chance else Speaker()
    settings = {"context": 2048, "num_pages": 400, "hook": speaker, "chat_template": template} | toy
    with toy_server(folder, **settings) as server:
        made_client = Client(server, speaker)
        with made_client.openai:
            yield made_client


def calls_of(choice: Any) -> list[tuple[str, Any]]:
    return [
        (call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()
    ]


def check(name: str, arguments: Any) -> None:
    [schema] = [each["function"]["parameters"] for each in TOOLS if each["function"]["name"] == name]
    jsonschema.validate(arguments, schema)
