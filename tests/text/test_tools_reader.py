"""Tool calls in a text that comes in pieces, however it is cut."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.text.tools import CallArguments, CallStart, Event, Text, ToolFormat, ToolReader

HERMES = ToolFormat("hermes", "arguments", True, False, True, True, False, False)
SMOLLM = replace(HERMES, name="smollm", listed=True)
LLAMA = ToolFormat("llama3", "parameters", False, False, False, True, False, False)
NAMES = ["weather", "add", "näme"]
W = '{"name": "weather", "arguments": {"city": "Paris"}}'
A = '{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}'
P = '{"name": "weather", "parameters": {"city": "Par\\"is{"}}'


def read(shape: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls, name and arguments, after checking the order of events."""
    reader = ToolReader(shape, NAMES)
    events: list[Event] = []
    for piece in pieces:
        events += reader.feed(piece)
    events += reader.finish()
    text = "".join(event.text for event in events if isinstance(event, Text))
    calls: list[tuple[str, str]] = []
    ids = set()
    for event in events:
        if isinstance(event, CallStart):
            assert event.index == len(calls)
            assert event.id.startswith("call_")
            ids.add(event.id)
            calls.append((event.name, ""))
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    assert len(ids) == len(calls) == reader.calls
    return text, calls


def block(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


WEATHER, ADD = ("weather", '{"city": "Paris"}'), ("add", '{"a": 1, "b": [2, {"c": "}"}]}')
CASES: dict[str, tuple[ToolFormat, str, str, list[tuple[str, str]]]] = {
    "text": (HERMES, "Hello, world!", "Hello, world!", []),
    "nothing": (HERMES, "", "", []),
    "spaces": (HERMES, "  a  b \n", "  a  b \n", []),
    "one": (HERMES, block(W), "", [WEATHER]),
    "two": (HERMES, block(W, A), "", [WEATHER, ADD]),
    "text before": (HERMES, f"Let me see.\n\n{block(W)}", "Let me see.", [WEATHER]),
    "text behind": (HERMES, f"{block(W)}\n  Done. ", "Done.", [WEATHER]),
    "text between": (HERMES, f"One {block(W)} two {block(A)} three", "Onetwothree", [WEATHER, ADD]),
    "no newlines": (HERMES, f"<tool_call>{W}</tool_call>", "", [WEATHER]),
    "spaces everywhere": (
        HERMES,
        '<tool_call> { "name" : "weather" , "arguments" : { "x" : 1 } } </tool_call>',
        "",
        [("weather", '{ "x" : 1 }')],
    ),
    "arguments first": (
        HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', "", [("add", '{"a": 1}')]
    ),
    "parameters": (HERMES, '<tool_call>{"name": "add", "parameters": {}}</tool_call>', "", [("add", "{}")]),
    "no arguments": (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", [("add", "{}")]),
    "arguments as text": (
        HERMES,
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        [("add", '{"a": 1}')],
    ),
    "type and id": (
        HERMES, f'<tool_call>{{"type": "function", "id": "x", {W[1:]}</tool_call>', "", [WEATHER]
    ),
    "escaped name": (
        HERMES, '<tool_call>{"name": "n\\u00e4me", "arguments": {}}</tool_call>', "", [("näme", "{}")]
    ),
    "end missing": (HERMES, f"<tool_call>\n{W}\n", "", [WEATHER]),
    "end is something else": (HERMES, f"<tool_call>\n{W}\n</tool> x", "</tool> x", [WEATHER]),
    "cut in the end": (HERMES, f"<tool_call>\n{W}\n</tool_", "", [WEATHER]),
    "cut in the arguments": (HERMES, f"<tool_call>\n{W[:-9]}", "", [("weather", '{"city": ')]),
    "cut in the name": (HERMES, '<tool_call>\n{"name": "wea', '<tool_call>\n{"name": "wea', []),
    "cut in the tag": (HERMES, "a <tool_ca", "a <tool_ca", []),
    "nearly a tag": (HERMES, "a <tool_cat> <<tool_call", "a <tool_cat> <<tool_call", []),
    "two brackets": (HERMES, f"<{block(W)}", "<", [WEATHER]),
    "unknown function": (
        HERMES, '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', [],
    ),
    "no object": (HERMES, "<tool_call>weather</tool_call>", "<tool_call>weather</tool_call>", []),
    "empty object": (HERMES, "<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", []),
    "arguments are no object": (
        HERMES, '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', [],
    ),
    "arguments as wrong text": (
        HERMES, '<tool_call>{"name": "add", "arguments": "[1]"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "[1]"}</tool_call>', [],
    ),
    "another key": (
        HERMES, '<tool_call>{"name": "add", "why": "x"}</tool_call>',
        '<tool_call>{"name": "add", "why": "x"}</tool_call>', [],
    ),
    "name twice": (
        HERMES, '<tool_call>{"name": "add", "name": "add"}</tool_call>',
        '<tool_call>{"name": "add", "name": "add"}</tool_call>', [],
    ),
    "no call, then one": (HERMES, f"<tool_call>no {block(W)}", "<tool_call>no", [WEATHER]),
    "list": (SMOLLM, f"<tool_call>[{W}, {A}]</tool_call>", "", [WEATHER, ADD]),
    "list of one": (SMOLLM, f"I will. <tool_call>[{W}]</tool_call>", "I will.", [WEATHER]),
    "empty list": (SMOLLM, "<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>", []),
    "list where one is expected": (HERMES, f"<tool_call>\n[{W}, {A}]\n</tool_call>", "", [WEATHER, ADD]),
    "one where a list is expected": (SMOLLM, f"<tool_call>{W}</tool_call>", "", [WEATHER]),
    "wrong second in a list": (SMOLLM, f"<tool_call>[{W}, 7]</tool_call>", ", 7]</tool_call>", [WEATHER]),
    "bare": (LLAMA, P, "", [("weather", '{"city": "Par\\"is{"}')]),
    "bare behind spaces": (LLAMA, f"\n\n {P} \n", "", [("weather", '{"city": "Par\\"is{"}')]),
    "bare, twice": (LLAMA, f"{P}; {P}", "", [("weather", '{"city": "Par\\"is{"}')] * 2),
    "bare text": (LLAMA, " Hello {you}.", " Hello {you}.", []),
    "bare text, then a call": (LLAMA, f"Sure: {P}", f"Sure: {P}", []),
    "bare call, then text": (LLAMA, f"{P}\nDone", "Done", [("weather", '{"city": "Par\\"is{"}')]),
    "bare, other JSON": (LLAMA, ' {"answer": 42}', ' {"answer": 42}', []),
    "bare, unknown function": (
        LLAMA, '{"name": "rm", "parameters": {}}', '{"name": "rm", "parameters": {}}', []
    ),
    "bare, cut": (LLAMA, '{"name": "weather"', '{"name": "weather"', []),
    "bare, nothing": (LLAMA, "", "", []),
    "bare, spaces": (LLAMA, " \n", " \n", []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_text_in_one_piece_and_in_every_two(name: str) -> None:
    shape, given_text, text, calls = CASES[name]
    assert read(shape, [given_text]) == (text, calls)
    assert read(shape, list(given_text)) == (text, calls)
    for cut in range(len(given_text)):
        assert read(shape, [given_text[:cut], given_text[cut:]]) == (text, calls)


def test_a_call_is_told_while_it_comes() -> None:
    reader = ToolReader(HERMES, NAMES)
    assert reader.feed("Well") == [Text("Well")]
    assert reader.feed(" then <tool") == [Text(" then")]
    assert reader.feed('_call>\n{"name": "weather"') == []
    start, first = reader.feed(', "arguments": {')
    assert isinstance(start, CallStart)
    assert (start.index, start.name) == (0, "weather")
    assert first == CallArguments(0, "{")
    assert reader.feed('"city": ') == [CallArguments(0, '"city": ')]
    assert reader.feed('"Paris"}}') == [CallArguments(0, '"Paris"}')]
    assert reader.feed("\n</tool_call>") == []
    assert reader.finish() == []


def test_text_that_is_no_tag_is_not_held_back() -> None:
    reader = ToolReader(HERMES, NAMES)
    assert reader.feed("1 <") == [Text("1")]
    assert reader.feed("2") == [Text(" <2")]
    reader = ToolReader(LLAMA, NAMES)
    assert reader.feed("1 <") == [Text("1 <")]


ARGUMENTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
TALK = st.text(alphabet='ab <>{}[]"\\\n;toolcall_/', max_size=20).filter(
    lambda text: "<tool_call>" not in text
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TALK, st.sampled_from(NAMES), ARGUMENTS), max_size=4), TALK, st.randoms())
def test_whatever_was_written_is_read(
    written: list[tuple[str, str, dict[str, object]]], last: str, rng: random.Random
) -> None:
    text = ""
    for talk, name, arguments in written:
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=rng.random() < 0.5)
        text += f"{talk}<tool_call>\n{call}\n</tool_call>"
    text += last
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(5))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found, calls = read(HERMES, pieces)
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        (name, arguments) for _, name, arguments in written
    ]
    squeezed = "".join("".join(talk for talk, _, _ in written).split()) + "".join(last.split())
    assert "".join(found.split()) == squeezed, "nothing is lost but spaces"


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet='<tool_call>/{}[]",:\\ \nnameargumentsweather1', max_size=80),
    st.sampled_from([HERMES, SMOLLM, LLAMA]),
)
def test_no_text_makes_it_fail(text: str, shape: ToolFormat) -> None:
    whole = read(shape, [text])
    assert whole == read(shape, list(text))
    if not whole[1]:
        assert whole[0] == text


def test_time_grows_with_the_text_and_not_with_its_square() -> None:
    def seconds(count: int) -> float:
        reader = ToolReader(HERMES, NAMES)
        start = time.perf_counter()
        for _ in range(count):
            reader.feed("<tool_cal " * 10)
            reader.feed('<tool_call>{"name": "' + "x" * 90)
            reader.feed('"}</tool_call>')
        reader.feed('<tool_call>{"name": "add", "arguments": {"a": "')
        for _ in range(count):
            reader.feed('{["<tool_call>\\"' * 8)
        reader.finish()
        return time.perf_counter() - start

    seconds(10)
    assert seconds(800) < 40 * max(seconds(80), 0.005)
