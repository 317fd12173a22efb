"""From `/v1/responses` to a chat completion: nothing lost, nothing silently left out."""

from __future__ import annotations

from typing import Any

import pytest

from boli.server.chat_wire import ChatRequest
from boli.server.errors import ApiError
from boli.server.responses_request import ResponsesRequest
from boli.server.wire import check

CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "18 degrees"}
CHAT_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}


def chat(**fields: Any) -> dict[str, Any]:
    body = check(ResponsesRequest, {"input": "hi", **fields}).chat()
    check(ChatRequest, body)  # it must be one
    return body


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        check(ResponsesRequest, {"input": "hi", **fields})
    assert raised.value.status == 400
    return raised.value


def test_a_text_is_a_question() -> None:
    assert chat() == {"messages": [{"role": "user", "content": "hi"}]}
    assert chat(instructions="Be brief.")["messages"][0] == {"role": "system", "content": "Be brief."}


def test_items_become_messages() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"},
                                                        {"type": "input_text", "text": "b"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}]},
        CALL, {**CALL, "call_id": "c2", "id": "fc_1", "status": "completed"}, RESULT,
        {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "warm"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]  # fmt: skip
    assert chat(input=items)["messages"] == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c", "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "18 degrees"},
        {"role": "tool", "tool_call_id": "c2", "content": "warm"},
        {"role": "assistant", "content": "No."},
    ]


def test_a_call_without_words_before_it() -> None:
    messages = chat(input=[{"role": "user", "content": "q"}, CALL, RESULT])["messages"]
    assert messages[1] == {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]}


def test_tools_and_choices() -> None:
    tool = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"},
            "strict": True}  # fmt: skip
    body = chat(tools=[tool], tool_choice={"type": "function", "name": "weather"}, parallel_tool_calls=False)
    function = {name: value for name, value in tool.items() if name != "type"}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["parallel_tool_calls"] is False
    assert chat(tools=[tool], tool_choice="required")["tool_choice"] == "required"


def test_settings() -> None:
    body = chat(max_output_tokens=5, temperature=0.5, top_p=0.9, top_logprobs=3, model="m")
    assert {name: body[name] for name in body if name != "messages"} == {
        "max_completion_tokens": 5, "temperature": 0.5, "top_p": 0.9, "logprobs": True, "top_logprobs": 3,
        "model": "m",
    }  # fmt: skip
    assert chat(include=["message.output_text.logprobs"])["top_logprobs"] == 0


def test_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    assert chat(text={"format": asked})["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}
    }  # fmt: skip
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat(text={"format": {"type": "text"}})


def test_what_is_accepted_and_changes_nothing() -> None:
    plain = chat()
    for fields in (
        {"store": False}, {"background": False}, {"truncation": "disabled"}, {"user": "u"},
        {"metadata": {"a": "b"}}, {"safety_identifier": "s"}, {"prompt_cache_key": "k"},
        {"service_tier": "auto"}, {"previous_response_id": None}, {"reasoning": None},
        {"include": ["reasoning.encrypted_content"]}, {"stream_options": {"include_obfuscation": False}},
    ):  # fmt: skip
        assert chat(**fields) == plain


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"inptu": "x"}, "inptu"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
         "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 3}]}]},
         "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": "x", "colour": "red"}]}, "input[0].colour"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function", "name": "f"}] * 129}, "tools"),
        ({"input": [{"role": "user", "content": "x"}] * 1025}, "input"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_facts_say_what_was_asked() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    facts = check(
        ResponsesRequest,
        {
            "input": "x",
            "tools": [tool],
            "tool_choice": "required",
            "temperature": 0.3,
            "metadata": {"a": "b"},
        },
    ).facts("toy")
    assert facts["tools"] == [{**tool, "strict": None, "description": None}]
    assert (facts["tool_choice"], facts["temperature"], facts["top_p"]) == ("required", 0.3, 1.0)
    assert (facts["metadata"], facts["store"], facts["model"]) == ({"a": "b"}, False, "toy")
