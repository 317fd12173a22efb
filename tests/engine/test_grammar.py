"""Grammars: whatever ends is valid, whatever is hostile ends soon, and tokens keep their kinds."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from boli.engine import grammar as module
from boli.engine.batch import Batch, Float32
from boli.engine.constraint import Constraint
from boli.engine.grammar import Grammars
from boli.engine.grammar_check import Checker
from boli.engine.request import Request
from boli.engine.sampling import Sampler, SamplingParams
from boli.errors import GrammarError
from boli.text import Tokenizer, load_tokenizer
from boli.text.gguf_vocabulary import load_gguf
from engine.json_schemas import REFUSED, SCHEMAS
from engine.toy_engine import make_engine
from engine.toy_llm import END_OF_TEXT, IM_END, VOCAB, write_tokenizer
from text.vocabularies import Metadata, byte_level_metadata, sentencepiece_pair


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bytewise")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def grammars(bytewise: Tokenizer) -> Grammars:
    return Grammars(bytewise, VOCAB)


def vocabulary(kind: str) -> Tokenizer:
    if kind == "gguf byte-level":
        return load_gguf(Metadata(byte_level_metadata()))
    return load_gguf(Metadata(sentencepiece_pair(add_space_prefix="prefixed" in kind).metadata))


VOCABULARIES = ["gguf byte-level", "gguf sentencepiece", "gguf sentencepiece, prefixed"]


def text_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text behind some prompt: no space is dropped from its front."""
    data = b"".join(tokenizer.token_bytes(token) for token in tokens if not tokenizer.is_special(token))
    return data.decode()


def drawn(constraint: Constraint, tokenizer: Tokenizer, seed: int, most: int = 600) -> list[int] | None:
    """The tokens of a model that is all chance; None if it does not come to an end."""
    rng = np.random.default_rng(seed)
    closers = [t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t) in {b'"', b"}", b"]", b","}]
    size = constraint.vocab_size
    sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), (), constraint)
    tokens: list[int] = []
    for position in range(most):
        logits = rng.normal(0.0, 2.0, size).astype(np.float32)
        logits[closers] += position / 20  # in the end it wants to close
        token = sampler.sample(logits, position).id
        if token in tokenizer.eos_token_ids:
            return tokens
        tokens.append(token)
        if sampler.finished:
            return tokens
    return None


def check(text: str, schema: Any) -> None:
    value = json.loads(text)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(value)


def test_there_are_a_hundred_schemas() -> None:
    assert len(SCHEMAS) == 100
    assert len({json.dumps(schema, sort_keys=True) for schema in SCHEMAS}) == 100
    for schema in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(schema)


def closing(batch: Batch, logits: Float32) -> None:
    """Makes a model of chance want to close what is open, the more the longer it goes on."""
    for index, row in enumerate(batch.logits_rows):
        for byte in b'"}],':
            logits[index, CLOSERS[byte]] += batch.positions[row] / 10


CLOSERS: dict[int, int] = {}


@pytest.fixture(scope="module", autouse=True)
def _closers(bytewise: Tokenizer) -> None:
    CLOSERS.update({bytewise.token_bytes(token)[0]: token for token in range(256)})


def test_every_output_that_ends_is_valid(bytewise: Tokenizer, grammars: Grammars) -> None:
    """A model whose logits are a hash of the past, with every schema, at several seeds, in one engine."""
    engine = make_engine(
        vocab_size=VOCAB, context=512, num_pages=600, max_rows=64, max_sequences=16, hook=closing
    )
    ends = bytewise.eos_token_ids
    requests: list[tuple[Any, Request]] = []
    for number, schema in enumerate(SCHEMAS):
        constraint = grammars.json_schema(schema)
        for seed in range(2):
            params = SamplingParams(max_tokens=400, temperature=1.0, seed=seed)
            prompt = [number % 256, seed]
            listener = lambda sampled: sampled.id in ends  # noqa: E731
            requests.append((schema, engine.submit(prompt, params, listener=listener, constraint=constraint)))
    for _ in range(100_000):
        if not engine.step():
            break
    ended = 0
    for schema, request in requests:
        assert request.error is None, (schema, request.error)
        tokens = request.tokens[request.prompt_length :]
        assert not any(bytewise.is_special(token) for token in tokens[:-1])
        if request.finish_reason == "stop":
            text = text_of(bytewise, tokens)
            assert "\N{REPLACEMENT CHARACTER}" not in text
            check(text, schema)
            ended += 1
        else:
            assert request.finish_reason == "length"
            assert len(tokens) == 400
    assert ended >= 180, "nearly all come to an end, so that the test tests something"


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("padding", [0, 37])
def test_other_vocabularies(kind: str, padding: int) -> None:
    tokenizer = vocabulary(kind)
    made = Grammars(tokenizer, tokenizer.vocab_size + padding)
    ended = 0
    for number, schema in enumerate(SCHEMAS[1::3]):
        try:
            tokens = drawn(made.json_schema(schema), tokenizer, number)
        except GrammarError as error:
            # These small vocabularies lack a few bytes: a character that began cannot always be finished.
            assert "no token of the vocabulary" in error.message, error
            continue
        if tokens is not None:
            assert max(tokens, default=0) < tokenizer.vocab_size
            assert not any(tokenizer.is_special(token) for token in tokens)
            check(text_of(tokenizer, tokens), schema)
            ended += 1
    assert ended >= 28


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_what_is_forced_comes_in_the_tokens_that_the_model_knows(kind: str) -> None:
    tokenizer = vocabulary(kind)
    made = Grammars(tokenizer, tokenizer.vocab_size)
    for text in ("the cat sat on the mat", "我爱中国", "a\nb  c\t!"):
        constraint = made.regex(re.escape(text))
        assert drawn_text(constraint, tokenizer, 1) == text
        schema = {"const": text}
        assert json.loads(drawn_text(made.json_schema(schema), tokenizer, 1)) == text
    # SentencePiece would put a space in front of it; the output must not have one.
    walk = made.regex("the cat sat on the mat").begin()
    for token in tokenizer.encode("\nthe cat sat on the mat", add_special_tokens=False):
        if tokenizer.token_bytes(token) in (b"\n", b" \n", b" "):
            continue
        if not walk.allowed()[token]:
            assert "sentencepiece" in kind, "byte-level: exactly the tokens of the text"
            break
        walk.accept(token)


def drawn_text(constraint: Constraint, tokenizer: Tokenizer, seed: int) -> str:
    tokens = drawn(constraint, tokenizer, seed)
    assert tokens is not None
    return text_of(tokenizer, tokens)


PATTERNS = [
    "(a+)+b", ".{1,99999}", "((a{1,20}){1,20}){1,20}", "(a|b)*a(a|b){10}", "[0-9]{3}-[0-9]{4}", "é+|🙂{2}",
    r"\p{L}{1,10}\p{N}{1,10}", "yes|no", r"<\|im_end\|>", "(?i)boli",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regular_expressions(pattern: str, bytewise: Tokenizer, grammars: Grammars) -> None:
    constraint = grammars.regex(pattern)
    ended = 0
    for seed in range(5):
        tokens = drawn(constraint, bytewise, seed, 200)
        if tokens is not None:
            assert not any(bytewise.is_special(token) for token in tokens)
            text = text_of(bytewise, tokens)
            if r"\p" not in pattern:  # Python's own module does not know that
                assert re.fullmatch(pattern, text), text
            ended += 1
    assert ended >= 3


def test_a_written_out_control_token_is_not_the_token(bytewise: Tokenizer, grammars: Grammars) -> None:
    tokens = drawn(grammars.regex(r"<\|im_end\|>"), bytewise, 1)
    assert tokens is not None
    assert IM_END not in tokens
    assert text_of(bytewise, tokens) == "<|im_end|>"


GRAMMARS = {
    'start: "a" start "b" | "ab"\n': r"a+b+",
    'start: expr\nexpr: NUMBER | "(" expr OP expr ")"\nOP: /[+*]/\nNUMBER: /[0-9]/\n': r"[0-9()+*]+",
    'start: start "x" | "x"\n': r"x+",
    'start: "<" %json {"type": "integer"} ">"\n': r"<-?[0-9]+>",
    'start: a*\na: "" | "x" "y"\n': r"(xy)*",
}


@pytest.mark.parametrize("source", GRAMMARS)
def test_lark_grammars(source: str, bytewise: Tokenizer, grammars: Grammars) -> None:
    constraint = grammars.lark(source)
    texts = [drawn(constraint, bytewise, seed, 150) for seed in range(8)]
    ended = [text_of(bytewise, tokens) for tokens in texts if tokens is not None]
    assert ended
    for text in ended:
        assert re.fullmatch(GRAMMARS[source], text)
        if source.startswith('start: "a"'):
            assert text.count("a") == text.count("b")


def test_json_object_is_any_object(bytewise: Tokenizer, grammars: Grammars) -> None:
    for seed in range(10):
        assert isinstance(json.loads(drawn_text(grammars.json_object(), bytewise, seed)), dict)
    assert accepts(grammars.json_object(), bytewise, '{"a": [1, 2.5e3, {"b": null}], "c": "\\n\\u0001é"}')
    assert accepts(grammars.json_object(), bytewise, '{\n    "a" : 1\n}')
    assert not accepts(grammars.json_object(), bytewise, "[]")
    assert not accepts(grammars.json_object(), bytewise, "{" + " " * 41 + "}")


def accepts(constraint: Constraint, tokenizer: Tokenizer, text: str) -> bool:
    """Whether a text is a whole output."""
    walk = constraint.begin()
    for token in [tokenizer.encode(byte, add_special_tokens=False) for byte in text]:
        for part in token:
            if walk.finished or not walk.allowed()[part]:
                return False
            walk.accept(part)
    return walk.finished or bool(walk.allowed()[IM_END])


def test_end_tokens_come_where_the_output_may_end(bytewise: Tokenizer, grammars: Grammars) -> None:
    walk = grammars.regex("ab*").begin()
    a, b = bytewise.encode("a"), bytewise.encode("b")
    assert np.flatnonzero(walk.allowed()).tolist() == a
    walk.accept(a[0])
    assert not walk.finished
    assert np.flatnonzero(walk.allowed()).tolist() == sorted([*b, *bytewise.eos_token_ids])
    walk.accept(IM_END)
    assert walk.finished
    walk = grammars.regex("ab").begin()
    walk.accept(a[0])
    walk.accept(b[0])
    assert walk.finished, "nothing can follow: no end token is needed"


def test_a_vocabulary_without_an_end(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    renamed = {"<|endoftext|>": "<one>", "<|im_start|>": "<two>", "<|im_end|>": "<three>"}
    for token in document["added_tokens"]:
        token["content"] = renamed[token["content"]]
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = {renamed.get(text, text): number for text, number in vocabulary.items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)
    assert not tokenizer.eos_token_ids
    walk = Grammars(tokenizer, VOCAB).regex("ab?").begin()
    walk.accept(tokenizer.encode("a")[0])
    assert walk.allowed().shape == (VOCAB,)
    assert np.flatnonzero(walk.allowed()).tolist() == tokenizer.encode("b")


def test_a_token_that_is_not_allowed_is_an_error(bytewise: Tokenizer, grammars: Grammars) -> None:
    walk = grammars.regex("ab").begin()
    with pytest.raises(GrammarError):
        walk.accept(bytewise.encode("b")[0])
    with pytest.raises(GrammarError):
        walk.allowed()
    assert drawn(grammars.regex("ab"), bytewise, 1) is not None, "others do not notice"


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


def resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


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


def test_the_end_tokens_of_this_vocabulary(bytewise: Tokenizer) -> None:
    assert bytewise.eos_token_ids == {IM_END, END_OF_TEXT}
