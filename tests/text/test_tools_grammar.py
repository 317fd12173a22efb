"""The grammar of answers with tools: what may be written, and that it is read again as calls."""

from __future__ import annotations

import json

import pytest

from boli.engine.grammar import Grammars, json_rule
from boli.text import Tokenizer, load_tokenizer
from boli.text.tools import Call, CallArguments, CallStart, ToolFormat, ToolReader, calls_grammar
from engine.toy_llm import IM_END, VOCAB, write_tokenizer
from text.test_tools_reader import HERMES, LLAMA, SMOLLM, W

A_CALL = '{"name": "add", "arguments": {"a": 1}}'
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
CALLS = [Call("weather", json_rule({"type": "object"})), Call("add", json_rule(SCHEMA))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, VOCAB)


def block(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def bare(call: str) -> str:
    return call.replace('"arguments"', '"parameters"')


def names(text: str) -> str:
    return text.replace("add", "rm")


@pytest.mark.parametrize(
    ("shape", "required", "parallel", "taken", "refused"),
    [
        (
            HERMES, False, True,
            ["", "Hello", "a <tool_", block(W), f"So: {block(A_CALL, W)} and more", block(W) + "\n"],
            [names(block(A_CALL)), f"<tool_call>{W}</tool_call>", "<tool_call>x", "<tool_call>\n{}",
             block('{"name": "add", "arguments": {"a": "x"}}'), block('{"name": "add", "arguments": {}}')],
        ),
        (
            HERMES, False, False,
            ["", "Hello", block(W), f"So: {block(W)}"],
            [block(W, A_CALL), block(W) + " and more", "<tool_call>x"],
        ),
        (
            HERMES, True, True,
            [block(W), block(A_CALL, W, W)],
            ["", "Hello", f"a {block(W)}", block(W) + "\n"],
        ),
        (HERMES, True, False, [block(W), block(A_CALL)], ["", block(W, W), names(block(A_CALL))]),
        (
            SMOLLM, True, True,
            [f"<tool_call>[{W}]</tool_call>", f"<tool_call>[{W}, {A_CALL}]</tool_call>"],
            ["", "<tool_call>[]</tool_call>", block(W), f"<tool_call>[{W}]</tool_call>x"],
        ),
        (
            SMOLLM, False, True,
            ["", "Hello", f"a <tool_call>[{W}, {A_CALL}]</tool_call> b"],
            ["<tool_call>[]", block(W)],
        ),
        (SMOLLM, True, False, [f"<tool_call>[{W}]</tool_call>"], [f"<tool_call>[{W}, {W}]</tool_call>"]),
        (
            LLAMA, False, True,
            ["", "Hello {you}", " \n", " x", bare(W), bare(A_CALL)],
            [bare(W) + " x", "{", " {", '{"answer": 42}', W, names(bare(A_CALL)), bare(W) + bare(W)],
        ),
        (LLAMA, True, True, [bare(W), bare(A_CALL)], ["", "Hello", " ", bare(W) + bare(W)]),
    ],
    ids=["hermes", "hermes, one", "hermes, required", "hermes, required, one", "smollm, required", "smollm",
         "smollm, required, one", "llama3", "llama3, required"],
)  # fmt: skip
def test_what_may_be_written(
    shape: ToolFormat,
    required: bool,
    parallel: bool,
    taken: list[str],
    refused: list[str],
    tokenizer: Tokenizer,
    grammars: Grammars,
) -> None:
    grammar = grammars.lark(calls_grammar(shape, CALLS, required=required, parallel=parallel))

    def accepts(text: str) -> bool:
        walk = grammar.begin()
        for token in tokenizer.encode(text):
            if walk.finished or not walk.allowed()[token]:
                return False
            walk.accept(token)
        return walk.finished or bool(walk.allowed()[IM_END])

    for text in taken:
        assert accepts(text), text
        reader = ToolReader(shape, ["weather", "add"])
        events = [*reader.feed(text), *reader.finish()]
        count = text.count('"name"')
        assert reader.calls == count
        starts = [event for event in events if isinstance(event, CallStart)]
        assert len(starts) == count
        for start in starts:
            pieces = (e.text for e in events if isinstance(e, CallArguments) and e.index == start.index)
            assert isinstance(json.loads("".join(pieces)), dict)
    for text in refused:
        assert not accepts(text), text


def test_names_are_written_as_they_are(tokenizer: Tokenizer, grammars: Grammars) -> None:
    name = 'a"b\\c.d-é'
    strange = Call(name, json_rule({"type": "object", "additionalProperties": False}))
    walk = grammars.lark(calls_grammar(LLAMA, [strange], required=True, parallel=False)).begin()
    tokens: list[int] = []
    while not walk.finished:
        allowed = walk.allowed()
        tokens.append(next((t for t in tokenizer.encode("{}") if allowed[t]), int(allowed.argmax())))
        walk.accept(tokens[-1])
    assert json.loads(tokenizer.decode(tokens)) == {"name": name, "parameters": {}}


@pytest.mark.parametrize("shape", [HERMES, SMOLLM], ids=["hermes", "smollm"])
def test_an_answer_without_calls_may_have_a_form(
    shape: ToolFormat, tokenizer: Tokenizer, grammars: Grammars
) -> None:
    form = json_rule({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]})
    source = calls_grammar(shape, CALLS, required=False, parallel=True, text=form)
    grammar = grammars.lark(source)

    def accepts(text: str) -> bool:
        walk = grammar.begin()
        for token in tokenizer.encode(text):
            if walk.finished or not walk.allowed()[token]:
                return False
            walk.accept(token)
        return walk.finished or bool(walk.allowed()[IM_END])

    call = shape.written([("add", {"a": 1})])
    assert accepts('{"x": 1}')
    assert accepts(call)
    assert not accepts("")
    assert not accepts("Hello")
    assert not accepts('{"y": 1}')
    assert not accepts(call + '{"x": 1}')
