"""Bodies: what is read, and what is refused before anything else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boli.server.chat_wire import ChatRequest
from boli.server.completions_wire import CompletionRequest
from boli.server.errors import ApiError
from boli.server.limits import MAX_JSON_DEPTH, MAX_LOGIT_BIAS, MAX_PROMPTS, MAX_STOPS
from boli.server.wire import Wire, check, parse

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
PROMPT: dict[str, Any] = {"prompt": "hello"}


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"", b"nothing", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e400}',
        b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": "\\uDC00x"}', b"[" * 100_000, b'{"a":' * 5_000,
        b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), b'{"a": ' + b"1" * 5_000 + b"}",
        b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1),
    ],
)  # fmt: skip
def test_what_is_no_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.status == 400


def test_pairs_of_surrogates_and_wide_documents_are_fine() -> None:
    assert parse(b'{"a": "\\ud83d\\ude42"}') == {"a": "🙂"}
    assert parse(b"[" + b"[]," * 1000 + b"[]]") == [[]] * 1001
    deep = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
    assert json.dumps(parse(deep)).encode() == deep


def told(model: type[Wire], body: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check(model, body)
    assert caught.value.status == 400
    return caught.value


CHAT_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": True}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"n": 17}, "n"),
    ({"n": 0}, "n"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"stop": ""}, "stop"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.0}, "seed"),
    ({"logit_bias": {str(index): 1 for index in range(MAX_LOGIT_BIAS + 1)}}, "logit_bias"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usag": True}}, "stream_options.include_usag"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"modalities": ["audio"]}, "modalities[0]"),
    ({"messages": []}, "messages"),
    ({"messages": HELLO["messages"] * 1025}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
     "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
     "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour"),
    ({"temprature": 1}, "temprature"),
    ({"functions": [{}]}, "functions"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"boli": {"reciept": True}}, "boli.reciept"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "place"), CHAT_FAULTS)
def test_a_wrong_field_of_a_chat_is_named(fault: dict[str, Any], place: str) -> None:
    error = told(ChatRequest, HELLO | fault)
    assert error.param == place
    assert error.message.startswith(place)


COMPLETION_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": ["x"] * (MAX_PROMPTS + 1)}, "prompt"),
    ({"prompt": ["x"] * 16, "n": 16}, "n"),
    ({"prompt": [1, True]}, "prompt[1]"),
    ({"prompt": [1, -1]}, "prompt[1]"),
    ({"prompt": {"text": "x"}}, "prompt"),
    ({"logprobs": 21}, "logprobs"),
    ({"best_of": 21}, "best_of"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"suffix": "x"}, "suffix"),
]


@pytest.mark.parametrize(("fault", "place"), COMPLETION_FAULTS)
def test_a_wrong_field_of_a_completion_is_named(fault: dict[str, Any], place: str) -> None:
    assert told(CompletionRequest, PROMPT | fault).param == place


def test_the_nearest_name_is_proposed() -> None:
    assert "did you mean 'temperature'" in told(ChatRequest, HELLO | {"temprature": 1}).message


def test_fields_that_clients_send_to_everybody_change_nothing() -> None:
    usual = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": None,
             "function_call": None, "max_tokens": None, "parallel_tool_calls": True}  # fmt: skip
    assert check(ChatRequest, HELLO | usual).params(max_tokens=5, logprobs=None).temperature == 1.0


def test_filters_at_temperature_0_are_not_in_the_way() -> None:
    wanted = check(ChatRequest, HELLO | {"temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.1})
    params = wanted.params(max_tokens=5, logprobs=None)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.0, 1.0, 0, 0.0)


def test_extensions_are_real_settings() -> None:
    body = {"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "seed": -1, "top_p": 0.5}
    params = check(CompletionRequest, PROMPT | body).params(max_tokens=5, logprobs=2)
    assert (params.top_k, params.min_p, params.repetition_penalty) == (7, 0.1, 1.2)
    assert (params.ignore_eos, params.seed, params.top_p, params.logprobs) == (True, 2**64 - 1, 0.5, 2)
    assert check(CompletionRequest, PROMPT | {"top_k": -1}).params(max_tokens=5, logprobs=None).top_k == 0


def test_the_content_of_a_message_is_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    wanted = check(ChatRequest, {"messages": [{"role": "developer", "content": parts}]})
    assert wanted.messages[0].plain() == {"role": "system", "content": "a\nb"}
