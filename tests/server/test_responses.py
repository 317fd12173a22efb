"""`/v1/responses` through the real client of OpenAI, against a real server of a toy model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseStreamEvent, ResponseTextDeltaEvent
from pydantic import BaseModel, TypeAdapter

from server.running import PATIENCE, Running, toy_server
from server.speaker import CALLED, CALLING, HERMES, NOTHING, WEATHER, Speaker
from text.samples import TEXTS, mixed_texts

SAID = "It is 18 °C in 巴黎 🙂.\n"
PROMPTS = [*(text for text in TEXTS if text), *mixed_texts(30, seed=9)]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def here(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy"), hook=speaker) as server:
        yield server


@pytest.fixture(scope="module")
def babble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("babble")) as server:
        yield server


def client_of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)


def prompt_tokens(here: Running, text: str, **fields: Any) -> int:
    with here.client() as client:
        asked = {"messages": [{"role": "user", "content": text}], **fields}
        count: int = client.post("/tokenize", json=asked).raise_for_status().json()["count"]
    return count


def test_an_answer(here: Running, speaker: Speaker) -> None:
    count = prompt_tokens(here, "How warm?")
    speaker.say(SAID, count)
    with client_of(here) as client:
        response = client.responses.create(model="toy", input="How warm?", temperature=0)
    assert response.output_text == SAID
    assert (response.status, response.incomplete_details, response.error) == ("completed", None, None)
    assert response.usage is not None
    assert response.usage.input_tokens == count
    assert response.usage.output_tokens == len(SAID.encode()) + 1
    here.settled()


def test_a_second_time_the_prompt_comes_from_the_cache(here: Running) -> None:
    with client_of(here) as client:
        asked: dict[str, Any] = {"model": "toy", "input": "long " * 20, "max_output_tokens": 2}
        first, second = (client.responses.create(**asked) for _ in range(2))
    assert first.usage and second.usage
    assert first.usage.input_tokens_details.cached_tokens < 32
    assert second.usage.input_tokens_details.cached_tokens >= 96


def test_the_stream_that_the_client_reads(here: Running, speaker: Speaker) -> None:
    speaker.say(SAID, prompt_tokens(here, "How warm?"))
    with client_of(here) as client:
        with client.responses.stream(model="toy", input="How warm?", temperature=0) as stream:
            events = list(stream)
            final = stream.get_final_response()
        raw = list(client.responses.create(model="toy", input="How warm?", temperature=0, stream=True))
    assert final.output_text == SAID
    deltas = [event.delta for event in raw if isinstance(event, ResponseTextDeltaEvent)]
    assert "".join(deltas) == SAID
    assert events[-1].type == raw[-1].type == "response.completed"
    assert [event.sequence_number for event in raw] == list(range(len(raw)))


def test_frames_are_named_and_are_what_openai_publishes(here: Running) -> None:
    with here.client() as client:
        reply = client.post("/v1/responses", json={"input": "x", "stream": True, "max_output_tokens": 3})
    assert reply.headers["content-type"].startswith("text/event-stream")
    frames = reply.text.removesuffix("\n\n").split("\n\n")
    for frame in frames:
        name, data = frame.split("\n")
        event = EVENT.validate_json(data.removeprefix("data: "))
        assert name == f"event: {event.type}"


def test_no_room_is_incomplete(here: Running, speaker: Speaker) -> None:
    speaker.say(SAID, prompt_tokens(here, "How warm?"))
    with client_of(here) as client:
        asked: dict[str, Any] = {
            "model": "toy", "input": "How warm?", "max_output_tokens": 5, "temperature": 0
        }  # fmt: skip
        response = client.responses.create(**asked)
        *_, last = client.responses.create(**asked, stream=True)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == SAID[:5]
    assert last.type == "response.incomplete"


def test_log_probabilities(here: Running, speaker: Speaker) -> None:
    speaker.say("yes", prompt_tokens(here, "Sure?"))
    with client_of(here) as client:
        response = client.responses.create(
            model="toy",
            input="Sure?",
            temperature=0,
            top_logprobs=2,
            include=["message.output_text.logprobs"],
        )
    part: Any = response.output[0].content[0]  # type: ignore[union-attr,index]
    told = [(entry.token, len(entry.top_logprobs)) for entry in part.logprobs]
    assert told == [("y", 2), ("e", 2), ("s", 2), ("<|im_end|>", 2)]


class Climate(BaseModel):
    celsius: int


def test_parsing_into_a_class(here: Running, speaker: Speaker) -> None:
    speaker.say('{"celsius":18}', prompt_tokens(here, "How warm?"))
    with client_of(here) as client:
        response = client.responses.parse(
            model="toy", input="How warm?", text_format=Climate, temperature=0, max_output_tokens=60
        )
        speaker.say("I do not know.", prompt_tokens(here, "How warm?"))
        held = client.responses.parse(
            model="toy", input="How warm?", text_format=Climate, temperature=0, max_output_tokens=60
        )
    assert response.output_parsed == Climate(celsius=18)
    assert isinstance(held.output_parsed, Climate)


@pytest.fixture(scope="module")
def caller(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("caller")
    with toy_server(folder, hook=speaker, chat_template=HERMES, context=2048, num_pages=256) as server:
        yield server


def test_functions_are_called_and_their_results_taken(caller: Running, speaker: Speaker) -> None:
    tools: Any = [
        {"type": "function", "name": "forecast", "parameters": WEATHER, "strict": False},
        {"type": "function", "name": "time", "parameters": NOTHING, "strict": False},
    ]
    asked: dict[str, Any] = {"model": "toy", "tools": tools, "temperature": 0, "max_output_tokens": 300}
    chat_tools = [
        {"type": "function", "function": {"name": tool["name"], "parameters": tool["parameters"]}}
        for tool in tools
    ]
    with client_of(caller) as client:
        speaker.say(CALLING, prompt_tokens(caller, "How warm?", tools=chat_tools))
        response = client.responses.create(input="How warm?", **asked)
        with client.responses.stream(input="How warm?", **asked) as stream:
            events = list(stream)
            streamed = stream.get_final_response()
        speaker.say("Warm.", 10_000)  # whatever it says then
        history: Any = [{"role": "user", "content": "How warm?"}, *response.output]
        history += [
            {"type": "function_call_output", "call_id": item.call_id, "output": "18"}
            for item in response.output
            if item.type == "function_call"
        ]
        client.responses.create(input=history, **{**asked, "tool_choice": "none"})
    for told in (response, streamed):
        calls: list[Any] = [item for item in told.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLED
        assert len({call.call_id for call in calls}) == 2
        assert told.output_text == "I ask."
    kinds = [event.type for event in events]
    assert kinds.count("response.function_call_arguments.done") == 2
    assert kinds[-1] == "response.completed"


def test_one_function_is_insisted_on(caller: Running, speaker: Speaker) -> None:
    tool: Any = {"type": "function", "name": "time", "parameters": NOTHING, "strict": True}
    with client_of(caller) as client:
        response = client.responses.create(
            model="toy", input="x", tools=[tool], tool_choice={"type": "function", "name": "time"},
            temperature=0, max_output_tokens=200,
        )  # fmt: skip
    assert [item.type for item in response.output] == ["function_call"]


def test_a_stream_says_what_the_whole_answer_says(babble: Running) -> None:
    with client_of(babble) as client:
        for index, text in enumerate(PROMPTS):
            asked: dict[str, Any] = {
                "model": "toy", "input": text[:300], "max_output_tokens": 1 + index % 19, "temperature": 0
            }  # fmt: skip
            whole = client.responses.create(**asked)
            events = list(client.responses.create(**asked, stream=True))
            deltas = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
            assert "".join(deltas) == whole.output_text
            streamed = events[-1].response
            assert [item.content for item in streamed.output] == [item.content for item in whole.output]
    babble.settled()


def test_errors_are_openais(here: Running) -> None:
    with client_of(here) as client:
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="other", input="x")
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model="toy", input="x", previous_response_id="resp_1")
        assert raised.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError, match="boli keeps none"):
            client.responses.retrieve("resp_1")
        with pytest.raises(openai.BadRequestError, match="context"):
            client.responses.create(model="toy", input="x" * 600, stream=True)
    here.settled()
