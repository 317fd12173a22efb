"""Grammars from outside: whatever is hostile ends soon, is refused with a reason, and hurts nobody."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from boli.engine import grammar as module
from boli.engine.constraint import Constraint
from boli.engine.grammar import Grammars
from boli.engine.grammar_check import Checker
from boli.engine.ledger import resident_bytes
from boli.errors import GrammarError
from boli.text import Tokenizer, load_tokenizer
from engine.grammar_walks import drawn, drawn_text
from engine.json_schemas import REFUSED, SCHEMAS
from engine.toy_llm import VOCAB, write_tokenizer


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bytewise")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def grammars(bytewise: Tokenizer) -> Grammars:
    return Grammars(bytewise, VOCAB)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_promised_is_refused_soon(name: str, grammars: Grammars) -> None:
    start = time.monotonic()
    with pytest.raises(GrammarError) as caught:
        grammars.json_schema(REFUSED[name])
    assert time.monotonic() - start < 10
    assert len(str(caught.value)) < 600


HOSTILE: dict[str, Callable[[Grammars], Constraint]] = {
    "nested repetitions": lambda g: g.regex("((a{1,1000}){1,1000}){1,1000}"),
    "catastrophic for backtracking": lambda g: g.regex("^(([a-z])+.)+[A-Z]([a-z])+$"),
    "a million states": lambda g: g.regex("(a|b)*a(a|b){40}"),
    "alternatives": lambda g: g.regex("|".join("abcdefgh"[i % 8] * (i % 50) for i in range(5000))),
    "parentheses": lambda g: g.regex("(" * 5000 + "a" + ")" * 5000),
    "unbalanced": lambda g: g.regex("(" * 100_000),
    "a megabyte": lambda g: g.regex("a" * (1 << 20)),
    "back-reference": lambda g: g.regex(r"(a)\1"),
    "surrogates": lambda g: g.regex("\ud800"),
    "lark, deep": lambda g: g.lark("start: " + "(" * 3000 + '"a"' + ")" * 3000),
    "lark, doubling rules": lambda g: g.lark(
        "start: a0\n" + "\n".join(f"a{i}: a{i + 1} a{i + 1}" for i in range(60)) + '\na60: "x"'
    ),
    "lark, doubling terminals": lambda g: g.lark(
        "start: A0\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(30)) + '\nA30: "x"'
    ),
    "lark, ambiguous": lambda g: g.lark('start: start start | "x" | ""'),
    "lark, missing rule": lambda g: g.lark("start: nowhere"),
    "lark, no start": lambda g: g.lark('a: "x"'),
    "gbnf, a chain backwards": lambda g: g.lark(
        "\n".join(f"a{i} ::= a{i + 1}" for i in range(14_000)) + '\na14000 ::= "x"\nroot ::= a0'
    ),
    "lark, not lark": lambda g: g.lark("\0\x1b[31m"),
    "a laugh": lambda g: g.json_schema(
        {"$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
         | {"a40": {"type": "integer"}}, "$ref": "#/$defs/a0"}
    ),
    "long arrays": lambda g: g.json_schema({"type": "array", "minItems": 10**6, "maxItems": 10**7}),
    "long text": lambda g: g.json_schema({"type": "string", "minLength": 10**6, "maxLength": 10**7}),
    "large numbers": lambda g: g.json_schema({"type": "integer", "minimum": -(10**300), "maximum": 10**300}),
    "a pattern in a pattern": lambda g: g.json_schema(
        {"type": "string", "pattern": "^((.{1,500}x){1,500}y){1,500}$"}
    ),
    "999 properties": lambda g: g.json_schema(
        {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(999)}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_ends_soon_in_one_way_or_the_other(
    name: str, bytewise: Tokenizer, grammars: Grammars
) -> None:
    start, before = time.monotonic(), resident_bytes()
    try:
        constraint = HOSTILE[name](grammars)
        drawn(constraint, bytewise, 1, 100)
    except GrammarError as error:
        text = str(error)
        assert len(text) < 1000
        assert "\x1b" not in text
    assert time.monotonic() - start < 20
    assert resident_bytes() - before < 200 << 20


def test_remote_references_are_refused_and_nothing_is_fetched(grammars: Grammars) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
        hostile: list[dict[str, Any]] = [
            {"$ref": address},
            {"$id": address, "$ref": "other.json"},
            {"$schema": address, "type": "string", "$ref": f"{address}#/a"},
            {"type": "array", "items": {"$ref": "file:///etc/passwd"}},
        ]
        for schema in hostile:
            with pytest.raises(GrammarError):
                grammars.json_schema(schema)
        with pytest.raises(GrammarError):
            grammars.lark(f'start: %json {{"$ref": "{address}"}}')
        with pytest.raises(TimeoutError):
            listener.accept()


def test_2000_schemas_leave_memory_flat(grammars: Grammars) -> None:
    def compile_some(first: int, count: int) -> None:
        for number in range(first, first + count):
            grammars.json_schema({"type": "object", "properties": {f"p{number}": {"type": "string"}}})

    compile_some(0, 200)
    before = resident_bytes()
    compile_some(200, 2000)
    assert resident_bytes() - before < 8 << 20
    assert len(grammars._kept) <= module.MAX_KEPT


def test_the_same_schema_is_compiled_once_and_large_ones_make_room(bytewise: Tokenizer) -> None:
    made = Grammars(bytewise, VOCAB)
    first = made.json_schema({"type": "integer"})
    assert made.json_schema({"type": "integer"}) is first
    for number in range(40):
        made.json_schema({"enum": [f"{number} {index}" for index in range(6000)]})
        assert sum(map(len, made._kept)) <= module.MAX_KEPT_BYTES
    assert made.json_schema({"type": "integer"}) is not first
    assert first.begin().allowed().any(), "whoever has it can go on"


def test_a_grammar_that_reached_its_limit_is_not_used_again(
    bytewise: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._LIMITS, "max_lexer_states", 50)
    made = Grammars(bytewise, VOCAB)
    hostile = made.regex("(x.{1,50}){1,50}")
    with pytest.raises(GrammarError) as caught:
        drawn(hostile, bytewise, 1)
    assert "could not be held" in caught.value.message
    assert made.regex("(x.{1,50}){1,50}") is not hostile


def test_threads_may_share_it(bytewise: Tokenizer) -> None:
    made = Grammars(bytewise, VOCAB)
    texts: list[str] = []

    def work(seed: int) -> None:
        for number in range(10):
            schema = {"enum": [f"{number} of {seed}"]}
            texts.append(json.loads(drawn_text(made.json_schema(schema), bytewise, seed)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == sorted(f"{number} of {seed}" for seed in range(4) for number in range(10))


def test_a_worker_that_takes_too_long_is_ended_and_replaced() -> None:
    checker = Checker(seconds=0.0)
    try:
        with pytest.raises(GrammarError, match="too long"):
            checker.check("start: /a/", {})
        checker._seconds = 20.0
        checker.check("start: /a/", {})
        worker = checker._worker
        assert worker is not None
        worker.kill()
        worker.wait()
        checker.check("start: /a/", {})
        assert checker._worker is not worker
        with pytest.raises(GrammarError, match="cannot be used"):
            checker.check("start: /(/", {})
    finally:
        checker.close()
    checker.close()


def test_a_compiler_that_crashes_takes_nobody_along() -> None:
    checker = Checker()
    try:
        with pytest.raises(GrammarError, match="made its compiler fail"):
            checker.check("start: /a/", {"no_such_limit": 1})  # an exception over there ends it
        checker.check("start: /a/", {})
    finally:
        checker.close()


def test_a_token_costs_little(bytewise: Tokenizer, grammars: Grammars) -> None:
    """Not a measurement: a bound that only a mistake in kind would miss."""
    constraint = grammars.json_schema(SCHEMAS[40])
    drawn(constraint, bytewise, 1)
    start = time.perf_counter()
    tokens = sum(len(drawn(constraint, bytewise, seed) or ()) for seed in range(10))
    assert (time.perf_counter() - start) / max(tokens, 1) < 0.02
