"""Grammars: whatever ends is valid, and tokens keep their kinds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.constraint import Constraint, Source
from boli.engine.grammar import Grammars
from boli.engine.request import Request
from boli.engine.sampling import SamplingParams
from boli.errors import GrammarError
from boli.text import Tokenizer, load_tokenizer
from boli.text.gguf_vocabulary import load_gguf
from engine.grammar_walks import drawn, drawn_text, text_of
from engine.json_schemas import SCHEMAS
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


def check(text: str, schema: Any) -> None:
    value = json.loads(text)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(value)


ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+  # one sum a line
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]{0,3} ws
num   ::= [0-9]{1,3} ws
ws    ::= [ \t]?
"""
GBNF = {
    ARITHMETIC: r"([-+*/()\w \t]+=[ \t]?[-+*/()\w \t]+\n)+",
    'root ::= "yes" | "no"': "yes|no",
    'root ::= item+\nitem ::= "- " [^\\r\\n]{1,5} "\\n"': r"(- [^\r\n]{1,5}\n)+",
    'root ::= "\\u0041" [\\u4e00-\\u4e03]{2} "\\x42" "\\U0001F600"': "A[一-七丁丂七万]{2}B😀",
    'root ::= "a ::= \\"b\\"" foo-bar\nfoo-bar ::= [/\\]]': r'a ::= "b"[/\]]',
}


@pytest.mark.parametrize("source", GBNF)
def test_grammars_of_llama_cpp(grammars: Grammars, bytewise: Tokenizer, source: str) -> None:
    constraint = grammars.lark(source)
    assert constraint.source == Source("gbnf", source)
    assert grammars.of(constraint.source) is constraint
    texts = [drawn(constraint, bytewise, seed) for seed in range(8)]
    ended = [text_of(bytewise, tokens) for tokens in texts if tokens is not None]
    assert ended
    assert all(re.fullmatch(GBNF[source], text) for text in ended), ended


def test_lark_is_not_taken_for_gbnf(grammars: Grammars, bytewise: Tokenizer) -> None:
    for source in ('start: "x ::= y"', "// a ::= b\nstart: /[:][:]=/"):
        assert grammars.lark(source).source == Source("lark", source)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("expr ::= [a-z]", "root"),
        ("root ::= nowhere", "nowhere"),
        ('root ::= "a', "end of input"),
        ('root ::= "a\\', "ends too early"),
        ("root ::= " + "(" * 20_000 + ")" * 20_000, "too deeply"),
        ('root ::= "a"\nstart: "b"', "Expected ::="),
    ],
)
def test_what_is_wrong_with_a_grammar_of_llama_cpp_is_said(grammars: Grammars, source: str, why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        grammars.lark(source)


def test_each_kind_can_be_made_again(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "integer"}}}
    for made in (grammars.json_schema(schema), grammars.regex("[ab]+"), grammars.lark('start: "x"')):
        assert made.source is not None
        assert grammars.of(made.source) is made
    with pytest.raises(GrammarError, match="not JSON"):
        grammars.of(Source("json_schema", "{"))


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
    ended = [walk.finished]
    assert np.flatnonzero(walk.allowed()).tolist() == sorted([*b, *bytewise.eos_token_ids])
    walk.accept(IM_END)
    ended.append(walk.finished)
    assert ended == [False, True]
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


def test_the_end_tokens_of_this_vocabulary(bytewise: Tokenizer) -> None:
    assert bytewise.eos_token_ids == {IM_END, END_OF_TEXT}
