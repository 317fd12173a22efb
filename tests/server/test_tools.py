"""Tools over the wire: the `openai` client, a real server, a model that says what it is told or is chance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from server.tool_client import (
    CALL,
    CONVERSATION,
    HELLO,
    TOOLS,
    Client,
    calls_of,
    check,
    client,
)  # fmt: skip
from text import tool_templates as made


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(tmp_path_factory.mktemp("hermes"), made.HERMES) as made_client:
        yield made_client


@pytest.fixture(scope="module", params=["hermes", "smollm", "told", "xml_tools", "llama3"])
def chance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    template = {
        "hermes": made.HERMES, "smollm": made.SMOLLM_2, "told": made.SMOLLM_3,
        "xml_tools": made.SMOLLM_3_XML, "llama3": made.LLAMA_3,
    }[request.param]  # fmt: skip
    with client(tmp_path_factory.mktemp(request.param), template, chance=True) as made_client:
        yield made_client


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("said", "content", "calls"),
    [
        ("Hello.", "Hello.", []),
        (CALL, None, [("weather", {"city": "Paris"})]),
        (f"Let me see.\n{CALL}", "Let me see.", [("weather", {"city": "Paris"})]),
        (
            f"{CALL}\n{CALL.replace('Paris', 'Oslo')}",
            None,
            [("weather", {"city": c}) for c in ("Paris", "Oslo")],
        ),
        ("1 < 2 and <tool", "1 < 2 and <tool", []),
    ],
    ids=["text", "call", "text and call", "two calls", "nearly"],
)
def test_auto(
    hermes: Client, stream: bool, said: str, content: str | None, calls: list[tuple[str, Any]]
) -> None:
    hermes.say(said)
    choice = hermes.ask(stream=stream)
    assert (choice.message.content or None) == content
    assert calls_of(choice) == calls
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    assert len({call.id for call in choice.message.tool_calls or ()}) == len(calls)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "said",
    [
        CALL.replace("weather", "delete_everything"),
        CALL.replace("city", "town"),
        CALL.replace('"Paris"', "7"),
        CALL.replace("}}", "}"),
        "<tool_call>oops",
    ],
    ids=["unknown function", "unknown argument", "wrong type", "brace missing", "no call"],
)
def test_a_model_that_calls_wrongly_is_held_to_a_right_call(hermes: Client, said: str, stream: bool) -> None:
    hermes.say(said)
    choice = hermes.ask(stream=stream, max_tokens=600)
    assert choice.finish_reason == "tool_calls"
    for name, arguments in calls_of(choice):
        check(name, arguments)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_required_calls_are_valid_even_if_the_model_is_chance(chance: Client, stream: bool) -> None:
    ended = 0
    for seed in range(6):
        choice = chance.ask(tool_choice="required", seed=seed, temperature=1, stream=stream)
        if choice.finish_reason == "tool_calls":
            ended += 1
            assert not choice.message.content
            assert calls_of(choice)
            for name, arguments in calls_of(choice):
                check(name, arguments)
        else:
            assert choice.finish_reason == "length"
    assert ended >= 4


def test_a_named_function_is_called_once(chance: Client) -> None:
    named = {"type": "function", "function": {"name": "add"}}
    for seed in range(4):
        choice = chance.ask(tool_choice=named, seed=seed, temperature=1)
        [(name, arguments)] = calls_of(choice)
        assert name == "add"
        check(name, arguments)
        assert choice.finish_reason == "tool_calls"


def test_no_parallel_calls(chance: Client) -> None:
    for seed in range(6):
        choice = chance.ask(tool_choice="required", parallel_tool_calls=False, seed=seed, temperature=1)
        assert len(choice.message.tool_calls or ()) <= 1


def test_one_call_is_the_end_where_only_one_is_wanted(hermes: Client) -> None:
    hermes.say(f"{CALL}\n{CALL}")
    assert len(calls_of(hermes.ask())) == 2
    choice = hermes.ask(parallel_tool_calls=False)
    assert (len(calls_of(choice)), choice.finish_reason) == (1, "tool_calls")


def test_several_choices_have_calls_of_their_own(hermes: Client) -> None:
    hermes.say(f"Hm. {CALL}")
    reply = hermes.send(n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    ids = {call.id for choice in reply.choices for call in choice.message.tool_calls or ()}
    assert len(ids) == 3


def test_a_call_that_is_cut_off(hermes: Client) -> None:
    hermes.say(CALL)
    choice = hermes.ask(max_tokens=48)
    assert choice.finish_reason == "length"
    [call] = choice.message.tool_calls
    assert '{"city": "Paris"}'.startswith(call.function.arguments)
    choice = hermes.ask(max_tokens=5)
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)


def test_none_writes_no_calls(hermes: Client) -> None:
    hermes.say(CALL)
    choice = hermes.ask(tool_choice="none")
    assert (choice.message.content, choice.message.tool_calls) == (CALL, None)


def test_logprobs_and_usage_count_the_tokens_of_calls(hermes: Client) -> None:
    hermes.say(CALL)
    reply = hermes.send(logprobs=True)
    [choice] = reply.choices
    assert len(choice.logprobs.content or ()) <= reply.usage.completion_tokens
    assert hermes.speaker is not None
    assert reply.usage.completion_tokens == len(hermes.speaker.script)


def test_results_go_back_to_the_model(chance: Client) -> None:
    choice = chance.ask(messages=CONVERSATION, max_tokens=8)
    assert choice.finish_reason in ("length", "stop")
    with chance.server.client() as http:
        reply = http.post("/tokenize", json={"messages": CONVERSATION, "tools": TOOLS, "model": "toy"})
    ids = reply.json()["tokens"]
    prompt = chance.server.llm.tokenizer.decode(ids)
    assert "rain, 22 degrees" in prompt
    assert "does weather" in prompt, "the tools are described"
    assert '"weather"' in prompt
    assert '{"city": "上海"}' in prompt, "an object, not a text in quotes"


def test_results_without_tools_in_the_request(hermes: Client) -> None:
    hermes.say("It rains.")
    assert hermes.ask(messages=CONVERSATION, tools=openai.omit).message.content == "It rains."


def test_the_clients_own_reply_goes_back_as_it_is(hermes: Client) -> None:
    hermes.say(f"Well. {CALL}")
    message = hermes.ask().message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in message.tool_calls or ()
    ]
    hermes.say("Sun!")
    assert hermes.ask(messages=[*HELLO, message, *results]).message.content == "Sun!"


ANSWER = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


@pytest.mark.parametrize("template", [made.HERMES, made.SMOLLM_2], ids=["hermes", "smollm"])
def test_an_answer_is_calls_or_has_its_form(tmp_path: Path, template: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}
    with client(tmp_path, template, chance=True) as chance:
        forms = calls = 0
        for seed in range(16):
            asked = [{"role": "user", "content": f"question {seed}"}]
            choice = chance.ask(messages=asked, response_format=form, seed=seed, temperature=1)
            if choice.finish_reason == "tool_calls":
                assert not choice.message.content
                for name, arguments in calls_of(choice):
                    check(name, arguments)
                calls += 1
            elif choice.finish_reason == "stop":
                jsonschema.validate(json.loads(choice.message.content), ANSWER)
                forms += 1
        assert forms > 0
        assert calls > 0
        required = chance.ask(response_format=form, tool_choice="required", seed=1, temperature=1)
        assert calls_of(required) or required.finish_reason == "length"
