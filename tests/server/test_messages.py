"""`/v1/messages` through the real client of Anthropic, against a real server of a toy model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from server.running import PATIENCE, Running, toy_server
from server.speaker import CALLED, CALLING, HERMES, NOTHING, WEATHER, Speaker
from text.samples import TEXTS, mixed_texts

SAID = "It is 18 °C in 巴黎 🙂.\n"
PROMPTS = [*(text for text in TEXTS if text), *mixed_texts(30, seed=10)]
KEY = "a-key-that-nobody-guesses"


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def here(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy"), hook=speaker, server={"api_key": (KEY,)}) as server:
        yield server


@pytest.fixture(scope="module")
def babble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("babble")) as server:
        yield server


def client_of(server: Running, key: str = KEY) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0, timeout=PATIENCE)


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": "toy", "max_tokens": 100, "messages": [{"role": "user", "content": text}],
        "extra_body": {"temperature": 0}, **fields,
    }  # fmt: skip


def count(client: anthropic.Anthropic, text: str) -> int:
    messages: Any = [{"role": "user", "content": text}]
    return client.messages.count_tokens(model="toy", messages=messages).input_tokens


def contents(message: Any) -> list[dict[str, Any]]:
    """The blocks, as what they are on the wire."""
    return [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in message.content]


def test_an_answer(here: Running, speaker: Speaker) -> None:
    with client_of(here) as client:
        tokens = count(client, "How warm?")
        speaker.say(SAID, tokens)
        message = client.messages.create(**asked("How warm?"))
    assert contents(message) == [{"type": "text", "text": SAID}]
    assert (message.stop_reason, message.stop_sequence, message.role) == ("end_turn", None, "assistant")
    usage = message.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == tokens
    assert usage.output_tokens == len(SAID.encode()) + 1


def test_the_stream_that_the_client_reads(here: Running, speaker: Speaker) -> None:
    with client_of(here) as client:
        speaker.say(SAID, count(client, "How warm?"))
        whole = client.messages.create(**asked("How warm?"))
        with client.messages.stream(**asked("How warm?")) as stream:
            assert "".join(stream.text_stream) == SAID
            final = stream.get_final_message()
    assert contents(final) == contents(whole)
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", whole.usage.output_tokens)


def test_a_stop_sequence_is_named(here: Running, speaker: Speaker) -> None:
    with client_of(here) as client:
        speaker.say(SAID, count(client, "How warm?"))
        for stream in (False, True):
            fields = asked("How warm?", stop_sequences=["nothing", "巴黎"])
            if stream:
                with client.messages.stream(**fields) as told:
                    message: Any = told.get_final_message()
            else:
                message = client.messages.create(**fields)
            assert message.content[0].text == "It is 18 °C in "
            assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "巴黎")


def test_no_room(here: Running, speaker: Speaker) -> None:
    with client_of(here) as client:
        speaker.say(SAID, count(client, "How warm?"))
        message = client.messages.create(**asked("How warm?", max_tokens=5))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)


def test_a_conversation_is_counted_as_it_is_computed(here: Running) -> None:
    fields: dict[str, Any] = {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
    }
    with client_of(here) as client:
        tokens = client.messages.count_tokens(model="toy", **fields).input_tokens
        usage = client.messages.create(model="toy", max_tokens=1, **fields).usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == tokens


def test_frames_are_named(here: Running) -> None:
    with here.client(headers={"x-api-key": KEY}) as client:
        body = asked("x", stream=True)
        reply = client.post("/v1/messages", json={**body.pop("extra_body"), **body})
    names = [frame.split("\n")[0] for frame in reply.text.removesuffix("\n\n").split("\n\n")]
    assert names[0] == "event: message_start"
    assert names[-2:] == ["event: message_delta", "event: message_stop"]


def test_a_stream_says_what_the_whole_answer_says(babble: Running) -> None:
    with client_of(babble) as client:
        for index, text in enumerate(PROMPTS):
            fields = asked(text[:300], max_tokens=1 + index % 19)
            whole = client.messages.create(**fields)
            with client.messages.stream(**fields) as stream:
                assert contents(stream.get_final_message()) == contents(whole)
    babble.settled()


def test_both_headers_carry_the_key(here: Running) -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}]}
    for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
        with here.client(headers=headers) as client:
            client.post("/v1/messages/count_tokens", json=body).raise_for_status()
    with client_of(here, "wrong") as client, pytest.raises(anthropic.AuthenticationError):
        count(client, "x")


def test_errors_are_anthropics(here: Running) -> None:
    with client_of(here) as client:
        for fields, error, kind in (
            ({"model": "other"}, anthropic.NotFoundError, "not_found_error"),
            ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
            ({"messages": [{"role": "user", "content": "x" * 600}]}, anthropic.BadRequestError,
             "invalid_request_error"),
        ):  # fmt: skip
            for stream in (False, True):
                with pytest.raises(error) as raised:
                    client.messages.create(**asked("x", stream=stream, **fields))
                body: Any = raised.value.body
                assert (body["type"], body["error"]["type"]) == ("error", kind)
                assert body["request_id"]
    here.settled()


def test_a_prompt_that_does_not_fit_is_told_as_clients_know_it(here: Running) -> None:
    """By these words, and no code, clients know that they must shorten the conversation."""
    with client_of(here) as client, pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(**asked("x" * 600))
    body: Any = raised.value.body
    assert "prompt is too long" in body["error"]["message"]


@pytest.fixture(scope="module")
def caller(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("caller")
    with toy_server(folder, hook=speaker, chat_template=HERMES, context=2048, num_pages=256) as server:
        yield server


def test_tools_are_used_and_their_results_taken(caller: Running, speaker: Speaker) -> None:
    tools: Any = [{"name": "forecast", "input_schema": WEATHER}, {"name": "time", "input_schema": NOTHING}]
    fields = asked("How warm?", tools=tools, max_tokens=300)
    with client_of(caller) as client:
        tokens = client.messages.count_tokens(model="toy", messages=fields["messages"], tools=tools)
        speaker.say(CALLING, tokens.input_tokens)
        message = client.messages.create(**fields)
        with client.messages.stream(**fields) as stream:
            streamed = stream.get_final_message()
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "18"}
            for block in contents(message)[1:]
        ]
        history: Any = [
            *fields["messages"],
            {"role": "assistant", "content": contents(message)},
            {"role": "user", "content": results},
        ]
        client.messages.create(**{**fields, "messages": history})
    for told in (message, streamed):
        text, *used = contents(told)
        assert text == {"type": "text", "text": "I ask."}
        assert [(block["name"], block["input"]) for block in used] == CALLED
        assert len({block["id"] for block in used}) == 2
        assert told.stop_reason == "tool_use"
