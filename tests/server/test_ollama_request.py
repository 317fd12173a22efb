"""From Ollama's routes to a chat completion or a completion."""

from __future__ import annotations

from typing import Any

import pytest

from boli.server.chat_wire import ChatRequest
from boli.server.completions_wire import CompletionRequest
from boli.server.errors import ApiError
from boli.server.ollama_request import ChatBody, GenerateBody
from boli.server.wire import check

ASK = {"role": "user", "content": "hi"}
DEFAULTS = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip


def chat(**fields: Any) -> dict[str, Any]:
    body = check(ChatBody, {"model": "toy", "messages": [ASK], **fields}).chat()
    check(ChatRequest, body)  # it must be one
    return body


def test_a_question_and_ollamas_defaults() -> None:
    assert chat() == {"messages": [ASK], **DEFAULTS}
    assert chat(options=None) == chat(options={"temperature": None}) == chat()


def test_options() -> None:
    options = {"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7, "num_predict": 9,
               "stop": ["a"], "repeat_penalty": 1.1, "presence_penalty": 0.2,
               "frequency_penalty": 0.3}  # fmt: skip
    expected = {"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7,
                "max_completion_tokens": 9, "stop": ["a"], "repetition_penalty": 1.1,
                "presence_penalty": 0.2, "frequency_penalty": 0.3}  # fmt: skip
    assert chat(options=options) == {"messages": [ASK], **expected}
    for endless in (-1, -2, 0):
        assert chat(options={"num_predict": endless}) == chat()


def test_what_is_accepted_and_changes_nothing() -> None:
    options = {"num_ctx": 8192, "num_gpu": 1, "num_thread": 8, "use_mmap": True, "mirostat": 0,
               "tfs_z": 1.0, "typical_p": 1, "repeat_last_n": -1}  # fmt: skip
    fields = {"keep_alive": "5m", "think": False, "format": "", "tools": [], "logprobs": False}
    assert chat(options=options, **fields) == chat()


def test_formats() -> None:
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    schema = {"type": "object"}
    assert chat(format=schema)["response_format"]["json_schema"]["schema"] == schema


def test_calls_get_ids_and_results_find_their_calls() -> None:
    function = {"name": "weather", "arguments": {"city": "Paris"}}
    messages = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": function}, {"index": 1, "function": {"name": "time", "arguments": {}}},
            {"type": "function", "function": function},
        ]},
        {"role": "tool", "content": "noon", "tool_name": "time"},
        {"role": "tool", "content": "18 degrees", "tool_name": "weather"},
        {"role": "tool", "content": "19 degrees"},
    ]  # fmt: skip
    written = chat(messages=messages)["messages"]
    ids = [call["id"] for call in written[1]["tool_calls"]]
    assert len(set(ids)) == 3
    assert written[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    assert [message["tool_call_id"] for message in written[2:]] == [ids[1], ids[0], ids[2]]


def test_a_prompt_and_a_raw_one() -> None:
    body = check(GenerateBody, {"model": "toy", "prompt": "hi", "system": "Be brief."})
    assert body.chat() == {"messages": [{"role": "system", "content": "Be brief."}, ASK], **DEFAULTS}
    body = check(GenerateBody, {
        "model": "toy", "prompt": "hi", "raw": True, "options": {"num_predict": 4}, "logprobs": True,
        "top_logprobs": 2,
    })  # fmt: skip
    assert body.plain() == {"prompt": "hi", "max_tokens": 4, "logprobs": 2, **DEFAULTS}
    check(CompletionRequest, body.plain())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{**ASK, "images": ["aGk="]}]}, "messages[0].images"),
        ({"think": True}, "think"),
        ({"think": "high"}, "think"),
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"temperature": 3}}, "options.temperature"),
        ({"options": {"stop": ["x"] * 17}}, "options.stop"),
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        ({"messages": [ASK] * 1025}, "messages"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        chat(**fields)
    assert (raised.value.status, raised.value.param) == (400, param)


@pytest.mark.parametrize("field", ["images", "suffix", "template", "context"])
def test_what_a_prompt_may_not_have(field: str) -> None:
    with pytest.raises(ApiError) as raised:
        check(GenerateBody, {"model": "toy", "prompt": "hi", field: ["x"]})
    assert (raised.value.status, raised.value.param) == (400, field)
