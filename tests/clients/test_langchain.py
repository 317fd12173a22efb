"""LangChain's own client of OpenAI, pointed at boli: nothing is set but the address and the model's name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from clients.told import PAGES, TIME_CALL, WEATHER_CALL, Told, example

langchain_openai: Any = pytest.importorskip("langchain_openai")
exceptions: Any = pytest.importorskip("langchain_core.exceptions")
messages: Any = pytest.importorskip("langchain_core.messages")
tools: Any = pytest.importorskip("langchain_core.tools")

TEXT = "I see: 你好 🙂 and more."


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=99)


SAID = '{"name": "Ada", "age": 36}'
ADA = Person(name="Ada", age=36)


OPENED: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    """LangChain keeps connections for as long as the process lives; the clients that hold them are closed."""
    yield
    while OPENED:
        OPENED.pop().close()


def chat(told: Told, **settings: Any) -> Any:
    llm = langchain_openai.ChatOpenAI(
        **{"model": "toy", "base_url": told.url, "api_key": "none", "max_retries": 0, **settings}
    )
    OPENED.append(llm.root_client)
    return llm


def joined(chunks: Any) -> Any:
    first, *others = chunks
    for each in others:
        first += each
    return first


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_says(told: Told, page: str) -> None:
    told.says(TEXT)
    names: dict[str, Any] = {}
    exec(told.typed(example(page, "LangChain")), names)
    OPENED.extend([names["llm"].root_client, names["embeddings"].client._client])
    assert names["llm"].invoke("hello").content == TEXT
    assert len(names["embeddings"].embed_query("hello")) == 8


def test_whole_and_streamed(told: Told) -> None:
    told.says(TEXT)
    whole = chat(told, temperature=0).invoke(
        [
            messages.SystemMessage("be brief"),
            messages.HumanMessage([{"type": "text", "text": "hi"}], name="ada", id="1"),
            messages.AIMessage("hi", id="2"),
            messages.HumanMessage("again"),
        ]
    )
    assert whole.content == TEXT
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["output_tokens"] > 10
    parts = list(chat(told, stream_usage=True).stream("again"))
    assert len([part for part in parts if part.content]) > 1
    streamed = joined(parts)
    assert streamed.content == TEXT
    assert streamed.response_metadata["finish_reason"] == "stop"
    assert streamed.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_many_fields_at_once(told: Told) -> None:
    told.says(TEXT)
    generous = chat(
        told, temperature=0.5, top_p=0.9, seed=1, presence_penalty=0.1, frequency_penalty=0.1, n=1,
        max_tokens=200, logit_bias={5: 1}, logprobs=True, top_logprobs=2, stop=["more"], store=False,
        service_tier="auto", reasoning_effort="low", verbosity="low", metadata={"who": "me"},
        model_kwargs={"user": "me"}, extra_body={"top_k": 5},
    )  # fmt: skip
    reply = generous.invoke("hi")
    assert reply.content == "I see: 你好 🙂 and "
    told_of = reply.response_metadata["logprobs"]["content"]
    assert all(len(each["top_logprobs"]) == 2 for each in told_of)
    assert b"".join(bytes(each["bytes"]) for each in told_of).decode().startswith(reply.content)
    two = chat(told, n=2).generate([[messages.HumanMessage("hi")]])
    assert [each.text for each in two.generations[0]] == [TEXT, TEXT]


def test_batches_and_asynchronously(told: Told) -> None:
    told.says("No.")

    async def everything() -> None:
        llm = chat(told)
        assert (await llm.ainvoke("hi")).content == "No."
        assert "".join([part.content async for part in llm.astream("hi")]) == "No."
        kinds = [event["event"] async for event in llm.astream_events("hi", version="v2")]
        assert (kinds[0], kinds[-1]) == ("on_chat_model_start", "on_chat_model_end")
        assert [reply.content for reply in await llm.abatch(["a", "b", "c"])] == ["No."] * 3
        await llm.root_async_client.close()

    asyncio.run(everything())
    assert [reply.content for reply in chat(told).batch(["a", "b", "c"])] == ["No."] * 3


def functions_given() -> list[Any]:
    """Two functions."""

    def weather(city: str) -> str:
        """The weather in a city."""
        return f"rain in {city}"

    def clock() -> str:
        """The time."""
        return "noon"

    return [tools.tool(weather), tools.tool(clock)]


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_loop_of_tools(told: Told, stream: bool, responses: bool) -> None:
    functions = {each.name: each for each in functions_given()}
    llm = chat(told, use_responses_api=responses).bind_tools(list(functions.values()))
    talk: list[Any] = [messages.HumanMessage("weather and time?")]
    told.says(f"Let me see.\n{WEATHER_CALL}\n{TIME_CALL}")
    for _ in range(3):
        said = joined(llm.stream(talk)) if stream else llm.invoke(talk)
        talk.append(said)
        if not said.tool_calls:
            break
        assert not said.invalid_tool_calls
        assert [(call["name"], call["args"]) for call in said.tool_calls] == [
            ("weather", {"city": "Oslo"}), ("clock", {}),
        ]  # fmt: skip
        talk += [functions[call["name"]].invoke(call) for call in said.tool_calls]
        told.says("It rains.")
    assert said.text == "It rains."
    [read] = told.conversations(1)
    assert [each["role"] for each in read] == ["user", "assistant", "tool", "tool"]
    assert [each["content"] for each in read[2:]] == ["rain in Oslo", "noon"]
    assert read[1]["content"] == "Let me see."
    assert [call["function"]["name"] for call in read[1]["tool_calls"]] == ["weather", "clock"]


@pytest.mark.parametrize("choice", ["any", "required", "clock", True], ids=str)
def test_a_call_that_must_be(told: Told, choice: Any) -> None:
    told.says("No, I would rather talk.")
    known = functions_given()[1:] if choice is True else functions_given()
    llm = chat(told, max_tokens=400).bind_tools(
        known, tool_choice=choice, strict=True, parallel_tool_calls=False
    )
    said = llm.invoke("weather?")
    if choice not in ("any", "required"):
        assert [call["name"] for call in said.tool_calls] == ["clock"]
        assert said.content == ""
    else:
        assert len(said.tool_calls) + len(said.invalid_tool_calls) == 1


# LangChain dumps what OpenAI's client has parsed, whose fields do not declare the class that they hold.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
@pytest.mark.parametrize("strict", [None, True], ids=["", "strict"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(told: Told, method: str, strict: bool | None, include_raw: bool) -> None:
    told.says(SAID)
    if method == "function_calling":
        told.says(f'<tool_call>\n{{"name": "Person", "arguments": {SAID}}}\n</tool_call>')
    if method == "json_mode" and strict:
        pytest.skip("LangChain has no such thing")
    llm = chat(told).with_structured_output(Person, method=method, strict=strict, include_raw=include_raw)
    found = llm.invoke("Who, in JSON?")
    if include_raw:
        assert found["parsing_error"] is None
    assert (found["parsed"] if include_raw else found) == ADA
    *_, last = llm.stream("Who, in JSON?")
    if not include_raw:
        assert last == ADA


def test_a_form_holds_what_the_model_would_not(told: Told) -> None:
    told.says("Whatever you say.")
    found = chat(told, max_tokens=400).with_structured_output(Person).invoke("Who?")
    assert isinstance(found, Person)


def test_embeddings(told: Told) -> None:
    settings = {"model": "toy", "base_url": told.url, "api_key": "none", "check_embedding_ctx_length": False}
    plain = langchain_openai.OpenAIEmbeddings(**settings)
    short = langchain_openai.OpenAIEmbeddings(**settings, dimensions=4)
    OPENED.extend([plain.client._client, short.client._client])
    both = plain.embed_documents(["hello", "goodbye"])
    assert both == [plain.embed_query("hello"), plain.embed_query("goodbye")]
    assert len(short.embed_query("hello")) == 4

    async def later() -> Any:
        found = await plain.aembed_documents(["hello", "goodbye"])
        await plain.async_client._client.close()
        return found

    assert asyncio.run(later()) == both


def test_texts(told: Told) -> None:
    llm = langchain_openai.OpenAI(model="toy", base_url=told.url, api_key="none", max_tokens=6, temperature=0)
    OPENED.append(llm.client._client)
    assert "".join(llm.stream("Once")) == llm.invoke("Once")


def test_errors(told: Told) -> None:
    with pytest.raises(Exception, match="there is no model 'huge'"):
        chat(told, model="huge").invoke("hi")
    with pytest.raises(exceptions.ContextOverflowError, match="tokens; the context holds 2,048"):
        chat(told).invoke("x" * 5000)
