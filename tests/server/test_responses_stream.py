"""The document of the Responses API and the events that build it."""

from __future__ import annotations

from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from boli.server.responses_request import ResponsesRequest
from boli.server.responses_stream import ResponseWriter
from boli.server.wire import check
from server.tellings import STORY, Document, ending, tell

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def make(**fields: Any) -> ResponseWriter:
    return ResponseWriter("resp-1", check(ResponsesRequest, {"input": "hi", **fields}).facts("toy"))


def rebuilt(events: list[Document]) -> list[Document]:
    """The output that a client has when it believes nothing but the deltas."""
    output: list[Document] = []
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(output)
                output.append(dict(event["item"]))
            case "response.content_part.added":
                output[event["output_index"]]["content"] = [dict(event["part"])]
            case "response.output_text.delta":
                output[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
            case "response.function_call_arguments.delta":
                output[event["output_index"]]["arguments"] += event["delta"]
            case "response.output_item.done":
                output[event["output_index"]]["status"] = event["item"]["status"]
    return output


def test_events_build_the_document() -> None:
    writer = make()
    events = tell(writer, STORY)
    assert rebuilt(events) == writer.document["output"] == events[-1]["response"]["output"]
    assert [item["type"] for item in writer.document["output"]] == [
        "message", "function_call", "function_call", "message"
    ]  # fmt: skip
    assert writer.document["output"][0]["content"][0]["text"] == "I shall ask: 你好 🙂"
    assert writer.document["output"][1]["arguments"] == '{"city": "Paris"}'
    assert writer.document["status"] == "completed"


def test_the_order_of_events() -> None:
    events = tell(make(), STORY[1:4])
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_openais_own_models_take_every_event_and_the_document() -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    writer = make(tools=[tool], text={"format": {"type": "json_schema", "name": "x", "schema": {}}})
    for event in tell(writer, STORY):
        parsed = EVENT.validate_python(event)
        assert parsed.type == event["type"]
    response = Response.model_validate(writer.document)
    assert response.output_text == "I shall ask: 你好 🙂 Done."
    assert response.usage is not None
    assert response.usage.total_tokens == 37
    assert response.usage.input_tokens_details.cached_tokens == 20


def test_what_an_event_shows_does_not_grow_afterwards() -> None:
    events = tell(make(), STORY)
    assert events[0]["response"]["output"] == []
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert added[0]["item"]["content"] == []
    assert added[1]["item"]["arguments"] == ""


def test_without_a_word_there_is_an_empty_message() -> None:
    writer = make()
    events = tell(writer, [])
    assert rebuilt(events) == writer.document["output"]
    assert writer.document["output"][0]["content"][0]["text"] == ""


def test_no_room_leaves_the_last_item_and_the_response_incomplete() -> None:
    writer = make()
    events = tell(writer, STORY[:4], ending("length"))
    assert events[-1]["type"] == "response.incomplete"
    assert writer.document["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in writer.document["output"]] == ["completed", "incomplete"]
    assert Response.model_validate(writer.document).status == "incomplete"


def test_a_failure_is_the_last_event() -> None:
    writer = make()
    writer.begin()
    writer.text("so far", [])
    (event,) = writer.fail("it broke")
    assert EVENT.validate_python(event).type == "response.failed"
    assert event["response"]["error"] == {"code": "server_error", "message": "it broke"}
    assert event["response"]["status"] == "failed"


def test_log_probabilities_go_with_the_text() -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    writer = make(top_logprobs=0)
    writer.begin()
    events = writer.text("a", [entry]) + writer.text("a", [entry]) + writer.end(ending())
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == [[{"token": "a", "logprob": -0.5, "top_logprobs": []}]] * 2
    assert writer.document["output"][0]["content"][0]["logprobs"] == [entry, entry]
    for event in events:
        EVENT.validate_python(event)
