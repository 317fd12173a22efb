"""The message of Anthropic's API and the events that build it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from boli.server.messages_stream import MessageWriter, input_of
from server.tellings import STORY, Document, ending, tell

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def rebuilt(events: list[Document]) -> list[Document]:
    """The content that a client has when it believes nothing but the deltas."""
    content: list[Document] = []
    arguments: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(content)
                content.append(dict(event["content_block"]))
            case "content_block_delta" if event["delta"]["type"] == "text_delta":
                content[event["index"]]["text"] += event["delta"]["text"]
            case "content_block_delta":
                index = event["index"]
                arguments[index] = arguments.get(index, "") + event["delta"]["partial_json"]
            case "content_block_stop" if event["index"] in arguments:
                content[event["index"]]["input"] = json.loads(arguments[event["index"]])
    return content


def test_events_build_the_message() -> None:
    writer = MessageWriter("msg-1", "toy", 30)
    events = tell(writer, STORY, ending("tool_calls"))
    assert rebuilt(events) == writer.document["content"] == [
        {"type": "text", "text": "I shall ask: 你好 🙂"},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_2", "name": "time", "input": {}},
        {"type": "text", "text": " Done."},
    ]  # fmt: skip
    assert writer.document["stop_reason"] == "tool_use"


def test_the_order_of_events() -> None:
    events = tell(MessageWriter("msg-1", "toy", 30), STORY[1:4])
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip


def test_anthropics_own_models_take_every_event_and_the_message() -> None:
    writer = MessageWriter("msg-1", "toy", 30)
    for event in tell(writer, STORY):
        assert EVENT.validate_python(event).type == event["type"]
    assert Message.model_validate(writer.document).usage.cache_read_input_tokens == 20


def test_counts_of_the_whole_and_of_the_cache_are_apart() -> None:
    writer = MessageWriter("msg-1", "toy", 30)
    events = tell(writer, STORY)
    assert events[0]["message"]["usage"]["input_tokens"] == 30
    assert events[-2]["usage"] == writer.document["usage"] == {
        "input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 20,
        "output_tokens": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (ending("stop"), "end_turn"),
        (ending("length"), "max_tokens"),
        (ending("tool_calls"), "tool_use"),
        (ending("stop", stop_string="\n\n"), "stop_sequence"),
    ],
)
def test_reasons(end: Any, reason: str) -> None:
    writer = MessageWriter("msg-1", "toy", 3)
    events = tell(writer, STORY, end)
    told = {"stop_reason": reason, "stop_sequence": end.stop_string}
    assert events[-2]["delta"] == told
    assert {name: writer.document[name] for name in told} == told


def test_without_a_word_there_is_no_block() -> None:
    writer = MessageWriter("msg-1", "toy", 3)
    assert rebuilt(tell(writer, [])) == writer.document["content"] == []


def test_input_that_was_cut_off_keeps_what_is_whole() -> None:
    assert input_of('{"a": [1, {"b": "c"}], "d": "e') == {"a": [1, {"b": "c"}]}
    assert input_of('{"a": 1}') == {"a": 1}
    for text in ("", "[1]", "nonsense", '{"a'):
        assert input_of(text) == {}
