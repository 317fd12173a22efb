"""Answers in a given form, over the wire: every one that ends is valid, and what cannot be is 400."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from boli.engine.batch import Batch, Float32
from engine.json_schemas import REFUSED, SCHEMAS
from engine.toy_llm import CHATML, byte_id
from server.running import Running, toy_server

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "name": {"type": "string", "maxLength": 5}},
    "required": ["x", "name"],
    "additionalProperties": False,
}


def closing(batch: Batch, logits: Float32) -> None:
    """A model of chance that wants to close what is open, the more the longer it goes on."""
    for index, row in enumerate(batch.logits_rows):
        for character in '"}],':
            logits[index, byte_id(character)] += batch.positions[row] / 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("toy")
    with toy_server(folder, context=1024, num_pages=600, hook=closing, server={"max_queue": 200}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def send(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": "toy", "messages": HELLO, "max_tokens": 400, "temperature": 1, "seed": 1}
    return client.chat.completions.create(**{**asked, **fields})


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return send(client, **fields).choices[0]


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "test", "schema": schema, **more}}


@pytest.mark.parametrize("strict", [None, True, False])
def test_json_schema(client: openai.OpenAI, strict: bool | None) -> None:
    given = schema_format(POINT) if strict is None else schema_format(POINT, strict=strict)
    for seed in range(5):
        choice = ask(client, response_format=given, seed=seed)
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), POINT)


def test_json_object(client: openai.OpenAI) -> None:
    ended = 0
    for seed in range(5):
        choice = ask(client, response_format={"type": "json_object"}, seed=seed)
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
            ended += 1
    assert ended >= 3
    choice = ask(client, response_format={"type": "json_object", "schema": POINT})
    jsonschema.validate(json.loads(choice.message.content), POINT)


def test_many_schemas_at_once(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(8) as threads:
        choices = list(
            threads.map(lambda schema: ask(client, response_format=schema_format(schema)), SCHEMAS[::2])
        )
    ended = 0
    for schema, choice in zip(SCHEMAS[::2], choices, strict=True):
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content), schema)
            ended += 1
        else:
            assert choice.finish_reason == "length"
    assert ended >= 42


def test_streamed_and_whole_are_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, response_format=schema_format(POINT)).message.content
    stream = send(client, response_format=schema_format(POINT), stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole
    assert len(pieces) > 3


def test_several_choices_share_the_schema(client: openai.OpenAI) -> None:
    reply = send(client, response_format=schema_format(POINT), n=4, seed=3)
    texts = [choice.message.content or "" for choice in reply.choices]
    assert len(set(texts)) == 4
    for text in texts:
        jsonschema.validate(json.loads(text), POINT)


def test_what_is_cut_off_says_so(client: openai.OpenAI) -> None:
    choice = ask(client, response_format=schema_format(POINT), max_tokens=4)
    assert choice.finish_reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice.message.content)


def test_text_is_no_form(client: openai.OpenAI) -> None:
    plain, text = ask(client, max_tokens=20), ask(client, max_tokens=20, response_format={"type": "text"})
    assert plain.message.content == text.message.content


FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "guided_json": ({"guided_json": POINT}, ""),
    "guided_json as text": ({"guided_json": json.dumps(POINT)}, ""),
    "guided_regex": ({"guided_regex": "[a-f]{2}-[0-9]{3}"}, "[a-f]{2}-[0-9]{3}"),
    "guided_choice": ({"guided_choice": ["yes", 'no "never"\n', "可能"]}, 'yes|no "never"\n|可能'),
    "guided_grammar": ({"guided_grammar": 'start: "a" start "b" | "ab"'}, "a+b+"),
    "structured json": ({"structured_outputs": {"json": POINT}}, ""),
    "structured regex": ({"structured_outputs": {"regex": "x{3}"}}, "x{3}"),
    "structured choice": ({"structured_outputs": {"choice": ["one", "two"]}}, "one|two"),
    "structured grammar": ({"structured_outputs": {"grammar": 'start: "z" /[0-9]/'}}, "z[0-9]"),
}


@pytest.mark.parametrize("where", ["chat", "completions"])
@pytest.mark.parametrize("name", FORMS)
def test_the_forms_of_vllm(client: openai.OpenAI, name: str, where: str) -> None:
    fields, pattern = FORMS[name]
    if where == "chat":
        choice = ask(client, extra_body=fields)
        text = choice.message.content
    else:
        choice = client.completions.create(
            model="toy", prompt="hello", max_tokens=400, temperature=1, seed=1, extra_body=fields
        ).choices[0]
        text = choice.text
    assert choice.finish_reason == "stop"
    if pattern:
        assert re.fullmatch(pattern, text), text
    else:
        jsonschema.validate(json.loads(text), POINT)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": ({"response_format": {"type": "sound"}}, "response_format.type"),
    "no type": ({"response_format": {}}, "response_format.type"),
    "no object": ({"response_format": "json"}, "response_format"),
    "schema missing": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "empty": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
    ),
    "schema 123": ({"response_format": schema_format(123)}, "response_format.json_schema.schema"),
    "hiccup": (
        {"response_format": schema_format({"type": "hiccup"})}, "response_format.json_schema.schema"
    ),
    "bad name": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": POINT}}},
        "response_format.json_schema.name",
    ),
    "schema of json_object": (
        {"response_format": {"type": "json_object", "schema": {"type": "hiccup"}}}, "response_format.schema"
    ),
    "schema in the wrong place": (
        {"response_format": {"type": "json_object", "json_schema": {"schema": POINT}}},
        "response_format.json_schema",
    ),
    "two forms": (
        {"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"
    ),
    "two in one": ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
    "bad regex": ({"guided_regex": "(("}, "guided_regex"),
    "look-ahead": ({"guided_regex": "(?=a)b"}, "guided_regex"),
    "bad grammar": ({"guided_grammar": "no grammar"}, "guided_grammar"),
    "bad JSON": ({"guided_json": "{"}, "guided_json"),
    "JSON that is no schema": ({"guided_json": "[1]"}, "guided_json"),
    "no choice": ({"guided_choice": []}, "guided_choice"),
    "an empty choice": ({"guided_choice": [""]}, "guided_choice[0]"),
    "unknown field": ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_400_and_named(server: Running, name: str, stream: bool) -> None:
    fields, param = WRONG[name]
    with server.client() as http:
        reply = http.post(
            "/v1/chat/completions", json={"model": "toy", "messages": HELLO, "stream": stream, **fields}
        )
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(error["message"]) < 700


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("depth", "half a character")])
def test_schemas_that_cannot_be_followed_are_400(server: Running, name: str) -> None:
    body = {"model": "toy", "messages": HELLO, "response_format": schema_format(REFUSED[name])}
    with server.client() as http:
        reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_hostile_schemas_do_not_stop_others(server: Running, client: openai.OpenAI) -> None:
    expected = ask(client, max_tokens=30).message.content
    doubling = "\n".join(f"A{number}: A{number + 1} A{number + 1}" for number in range(30))
    hostile: list[dict[str, Any]] = [
        {"guided_regex": f"((a{{1,{1000 + number}}}){{1,1000}}){{1,1000}}"} for number in range(6)
    ] + [
        {"guided_grammar": f'start: A0\n{doubling}\nA30: "x"'},
        {"guided_json": {"enum": [f"value {number}" for number in range(9000)]}},
    ]  # fmt: skip

    def attack(fields: dict[str, Any]) -> int:
        body = {"model": "toy", "messages": HELLO, "max_tokens": 100, "temperature": 1, "seed": 1, **fields}
        with server.client() as http:
            return http.post("/v1/chat/completions", json=body).status_code

    with ThreadPoolExecutor(len(hostile)) as threads:
        attacks = [threads.submit(attack, fields) for fields in hostile]
        for _ in range(5):
            assert ask(client, max_tokens=30).message.content == expected
        assert {attack.result() for attack in attacks} <= {200, 400}
    server.settled()


def test_logit_bias_over_the_wire(client: openai.OpenAI, server: Running) -> None:
    x = server.llm.tokenizer.encode("x")[0]
    assert ask(client, max_tokens=5, logit_bias={str(x): 100}).message.content == "xxxxx"
    for wrong in ({"x": 1}, {"-1": 1}, {str(10**6): 1}, {str(x): 101}, {str(x): True}, {str(x): "1"}):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, max_tokens=5, logit_bias=wrong)
        assert "logit_bias" in str(caught.value)
    with pytest.raises(openai.BadRequestError):
        ask(client, max_tokens=5, logit_bias={str(number): 1 for number in range(1025)})


THINKING = (
    "{% if enable_thinking is defined and not enable_thinking %}quiet{% endif %}{{ date_string or '' }}"
)


def test_what_a_request_may_set_in_the_template(tmp_path: Path) -> None:
    with toy_server(tmp_path, chat_template=THINKING + CHATML) as running, running.client() as http:

        def prompt(**names: Any) -> httpx.Response:
            return http.post("/tokenize", json={"messages": HELLO, "chat_template_kwargs": names})

        def text(**names: Any) -> str:
            return running.llm.tokenizer.decode(prompt(**names).json()["tokens"])

        assert text().startswith("<|im_start|>")
        assert text(enable_thinking=True).startswith("<|im_start|>")
        assert text(enable_thinking=False).startswith("quiet<|im_start|>")
        assert text(date_string="1 May").startswith("1 May<|im_start|>")
        for name in ("tokenize", "messages", "tools", "add_generation_prompt", "chat_template", "bos_token"):
            reply = prompt(**{name: "x"})
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == f"chat_template_kwargs.{name}"
