"""Tools that cannot be: what is wrong, or what a model's template cannot express, is 400 with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from engine.toy_llm import CHATML
from server.tool_client import (
    ADD,
    CALL,
    CONVERSATION,
    HELLO,
    TOOLS,
    WEATHER,
    Client,
    calls_of,
    client,
    tool,
)  # fmt: skip
from text import tool_templates as made


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(tmp_path_factory.mktemp("hermes"), made.HERMES) as made_client:
        yield made_client


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown choice": ({"tool_choice": "sometimes"}, "tool_choice"),
    "choice of nothing": ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    "choice of another": (
        {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"
    ),
    "required without tools": ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    "another kind": ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
    "no name": ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    "a name that is none": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"
    ),
    "the same twice": ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    "an unknown field": (
        {"tools": [{"type": "function", "function": {"name": "a", "parametres": {}}}]},
        "tools[0].function.parametres",
    ),
    "parameters are no object": (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": 7}}]},
        "tools[0].function.parameters",
    ),
    "parameters of an array": (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters",
    ),
    "a strict schema that cannot be followed": (
        {"tools": [ADD, tool("a", strict=True, x={"not": {}})]}, "tools[1].function.parameters"
    ),
    "an expression as well": ({"extra_body": {"guided_regex": "a"}}, "guided_regex"),
    "a wrong form as well": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "hiccup"}}}},
        "response_format.json_schema.schema",
    ),
    "a result of nothing": (
        {"messages": [*HELLO, {"role": "tool", "tool_call_id": "call_9", "content": "x"}]},
        "messages[1].tool_call_id",
    ),
    "arguments that are no JSON": (
        {"messages": [*HELLO, {"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{"}}]}]},
        "messages[1].tool_calls[0].function.arguments",
    ),
    "arguments that are no object": (
        {"messages": [*HELLO, {"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "a", "arguments": "[1]"}}]}]},
        "messages[1].tool_calls[0].function.arguments",
    ),
    "too many": ({"tools": [tool(f"t{number}") for number in range(129)]}, "tools"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_400_and_named(hermes: Client, name: str, stream: bool) -> None:
    fields, param = WRONG[name]
    with pytest.raises(openai.BadRequestError) as caught:
        hermes.openai.chat.completions.create(
            **{"model": "toy", "messages": HELLO, "tools": TOOLS, "stream": stream, **fields}
        )
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["param"] == param


def test_a_schema_that_cannot_be_followed_is_a_promise_only_if_strict(hermes: Client) -> None:
    odd = tool("odd", x={"type": "array", "uniqueItems": True})
    hermes.say('<tool_call>\n{"name": "odd", "arguments": {"x": [1, 1]}}\n</tool_call>')
    assert calls_of(hermes.ask(tools=[odd, WEATHER])) == [("odd", {"x": [1, 1]})]
    odd["function"]["strict"] = True
    assert "uniqueItems" in hermes.refused(tools=[WEATHER, odd])["message"]


@pytest.mark.parametrize(
    ("template", "why"),
    [(CHATML, "does not tell the model about them"), (made.MISTRAL_TOOLS, "a form that boli does not know")],
    ids=["as SmolLM2-135M", "unknown form"],
)
def test_a_template_without_tools_is_refused_with_the_reason(tmp_path: Path, template: str, why: str) -> None:
    with client(tmp_path, template) as plain:
        for stream in (False, True):
            error = plain.refused(stream=stream)
            assert error["code"] == "tools_not_supported"
            assert error["param"] == "tools"
            assert "the model's chat template cannot express tools" in error["message"]
            assert why in error["message"]
        error = plain.refused(messages=CONVERSATION, tools=openai.omit)
        assert (error["code"], error["param"]) == ("tools_not_supported", "messages[1]")
        if template == CHATML:
            plain.say("Fine.")
            assert plain.ask(tools=openai.omit).message.content == "Fine."
            assert plain.ask(tool_choice="none").message.content == "Fine.", "they are not needed"


def test_results_that_a_template_has_no_place_for(tmp_path: Path) -> None:
    with client(tmp_path, made.NO_RESULTS) as plain:
        plain.say(CALL)
        assert len(calls_of(plain.ask())) == 1
        error = plain.refused(messages=CONVERSATION)
        assert (error["code"], error["param"]) == ("tools_not_supported", "messages[2].role")


def test_what_llama_cannot_express(tmp_path: Path) -> None:
    twice = [dict(message) for message in CONVERSATION]
    twice[1]["tool_calls"] = [*twice[1]["tool_calls"], {**twice[1]["tool_calls"][0], "id": "call_2"}]
    with client(tmp_path, made.LLAMA_3, chance=True) as llama:
        error = llama.refused(response_format={"type": "json_object"})
        assert error["param"] == "response_format"
        assert "one call at a time" in llama.refused(messages=twice)["message"], "the template's own words"
