"""Constraints with the vocabularies and the weights of real models."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

import boli
from boli.engine.engine import Engine
from boli.engine.grammar import Grammars
from boli.engine.request import Request
from boli.engine.sampling import Sampler, SamplingParams
from boli.errors import GrammarError, SourceError, TemplateError
from boli.sources import resolve
from boli.text import Tokenizer, load_tokenizer
from boli.text.tools import format_of
from engine.json_schemas import SCHEMAS

pytestmark = pytest.mark.model
MODELS = ["smollm2", "gemma3-270m"]


@functools.cache
def tokenizer_of(name: str) -> Tokenizer:
    try:
        return load_tokenizer(resolve(name).path)
    except SourceError as error:
        pytest.skip(f"{name} cannot be had here: {error.message}")


@functools.cache
def grammars_of(name: str) -> Grammars:
    tokenizer = tokenizer_of(name)
    return Grammars(tokenizer, tokenizer.vocab_size)


def text_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return b"".join(tokenizer.token_bytes(token) for token in tokens).decode()


@pytest.mark.parametrize("name", MODELS)
def test_chance_with_a_real_vocabulary(name: str) -> None:
    tokenizer, grammars = tokenizer_of(name), grammars_of(name)
    rng = np.random.default_rng(3)
    short = [
        token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token) in (b'"', b"}", b"]")
    ]
    ended = 0
    for number, schema in enumerate(SCHEMAS[::4]):
        sampler = Sampler(SamplingParams(temperature=1.0, seed=number), (), grammars.json_schema(schema))
        tokens: list[int] = []
        for position in range(120):
            logits = rng.normal(0.0, 2.0, tokenizer.vocab_size).astype(np.float32)
            logits[short] += 8.0 + position / 4
            try:
                token = sampler.sample(logits, position).id
            except GrammarError as error:
                # A byte that begins a character may have no token that goes on.
                assert "no token of the vocabulary" in error.message
                break
            if token not in tokenizer.eos_token_ids:
                assert not tokenizer.is_special(token)
                tokens.append(token)
            if sampler.finished or token in tokenizer.eos_token_ids:
                jsonschema.validate(json.loads(text_of(tokenizer, tokens)), schema)
                ended += 1
                break
    assert ended >= 20


@pytest.mark.parametrize("name", MODELS)
def test_forced_text_comes_in_the_models_own_tokens(name: str) -> None:
    tokenizer, grammars = tokenizer_of(name), grammars_of(name)
    for text in ("The quick brown fox", "为什么天空是蓝色的？", '{"name": "weather", "arguments": '):
        expected = tokenizer.encode(text, add_special_tokens=False)
        walk = grammars.lark(f"start: {json.dumps(text, ensure_ascii=False)}").begin()
        for token in expected:
            assert walk.allowed()[token]
            walk.accept(token)
        assert walk.finished


def test_a_real_model_writes_what_the_schema_says() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "country": {"enum": ["France", "Germany", "Italy"]},
            "population": {"type": "integer", "minimum": 1, "maximum": 99_999_999},
        },
        "required": ["city", "country", "population"],
        "additionalProperties": False,
    }
    try:
        llm = boli.load("smollm2", context=512)
    except SourceError as error:
        pytest.skip(f"the model cannot be had here: {error.message}")
    with llm:
        engine: Engine = llm._engine
        constraint = Grammars(llm.tokenizer, engine.vocab_size).json_schema(schema)
        prompt = llm.render(
            [{"role": "user", "content": "Describe Paris as JSON: city, country, population."}]
        )
        params = [SamplingParams(max_tokens=120), SamplingParams(max_tokens=120, temperature=1.0, seed=5)]
        requests: list[Request] = [engine.submit(prompt, each, constraint=constraint) for each in params]
        while engine.step():
            pass
        for request in requests:
            assert request.finish_reason == "stop"
            tokens = request.tokens[request.prompt_length :]
            jsonschema.validate(json.loads(text_of(llm.tokenizer, tokens)), schema)
        assert "Paris" in text_of(llm.tokenizer, requests[0].tokens[requests[0].prompt_length :])


def test_the_default_model_has_no_tools() -> None:
    with pytest.raises(TemplateError) as caught:
        format_of(tokenizer_of("smollm2").require_chat_template())
    assert "does not tell the model about them" in caught.value.cause
