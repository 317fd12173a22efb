"""From Anthropic's `/v1/messages` to a chat completion."""

from __future__ import annotations

from typing import Any

import pytest

from boli.server.chat_wire import ChatRequest
from boli.server.errors import ApiError
from boli.server.messages_request import MessagesRequest
from boli.server.wire import check

ASK = {"role": "user", "content": "hi"}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris é"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "18 degrees"}
CHAT_CALL = {
    "id": "t1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris é"}'},
}


def request(**fields: Any) -> MessagesRequest:
    return check(MessagesRequest, {"model": "toy", "max_tokens": 9, "messages": [ASK], **fields})


def chat(**fields: Any) -> dict[str, Any]:
    body = request(**fields).chat()
    check(ChatRequest, body)  # it must be one
    return body


def test_a_question() -> None:
    assert chat() == {"model": "toy", "max_completion_tokens": 9, "messages": [ASK]}


def test_system_as_text_and_as_blocks() -> None:
    blocks = [{"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
              {"type": "text", "text": "brief."}]  # fmt: skip
    expected = [{"role": "system", "content": "Be brief."}, ASK]
    assert chat(system="Be brief.")["messages"] == chat(system=blocks)["messages"] == expected


def test_tools_and_their_results() -> None:
    messages = [
        ASK,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                                          {"type": "text", "text": "I ask."}, USE, {**USE, "id": "t2"}]},
        {"role": "user", "content": [RESULT, {**RESULT, "tool_use_id": "t2", "is_error": True,
                                              "content": [{"type": "text", "text": "no city"}]},
                                     {"type": "text", "text": "So?"}]},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [RESULT]},
    ]  # fmt: skip
    assert chat(messages=messages)["messages"] == [
        ASK,
        {"role": "assistant", "content": "I ask.", "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "t2"}]},
        {"role": "tool", "tool_call_id": "t1", "content": "18 degrees"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no city"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
        {"role": "tool", "tool_call_id": "t1", "content": "18 degrees"},
    ]


def test_tools_that_a_search_found_are_named() -> None:
    found = [{"type": "tool_reference", "tool_name": name} for name in ("weather", "time")]
    results = [{**RESULT, "content": [{"type": "text", "text": "Found:\n"}, *found]}]
    messages = [ASK, {"role": "assistant", "content": [USE]}, {"role": "user", "content": results}]
    assert chat(messages=messages)["messages"][-1]["content"] == "Found:\nweather\ntime\n"


def test_definitions_of_tools() -> None:
    tool = {"name": "weather", "description": "d", "input_schema": {"type": "object"},
            "cache_control": {"type": "ephemeral"}}  # fmt: skip
    body = chat(tools=[tool], tool_choice={"type": "tool", "name": "weather"})
    function = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    body = chat(tools=[tool], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert chat(tools=[tool], tool_choice={"type": "none"})["tool_choice"] == "none"


def test_settings() -> None:
    body = chat(stop_sequences=["a", "b"], temperature=0.5, top_p=0.9, top_k=5)
    names = ("stop", "temperature", "top_p", "top_k")
    assert tuple(body[name] for name in names) == (["a", "b"], 0.5, 0.9, 5)
    schema = {"type": "object"}
    body = chat(output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}})
    assert body["response_format"]["json_schema"]["schema"] == schema


def test_what_is_accepted_and_changes_nothing() -> None:
    plain = chat()
    fields: dict[str, Any]
    for fields in (
        {"metadata": {"user_id": "u"}}, {"service_tier": "auto"}, {"thinking": {"type": "adaptive"}},
        {"cache_control": {"type": "ephemeral"}}, {"context_management": {"edits": []}},
        {"stop_sequences": []}, {"tools": []}, {"container": None},
    ):  # fmt: skip
        assert chat(**fields) == plain


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [ASK] * 1025}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [ASK, {"role": "assistant", "content": "{"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{**RESULT, "content": [{"type": "image"}]}]}]},
         "messages[0].content[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
         "messages[0].content[0].text"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}}] * 129}, "tools"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop": "x"}, "stop"),
        ({"output_config": {"format": {"type": "regex"}}}, "output_config.format"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        request(**fields)
    assert (raised.value.status, raised.value.param) == (400, param)
