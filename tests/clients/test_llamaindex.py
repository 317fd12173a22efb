"""LlamaIndex's client of servers like OpenAI's, pointed at boli."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field

from clients.told import PAGES, TIME_CALL, WEATHER_CALL, Told, example

openai_like: Any = pytest.importorskip("llama_index.llms.openai_like")
openai_like_embedding: Any = pytest.importorskip("llama_index.embeddings.openai_like")
agents: Any = pytest.importorskip("llama_index.core.agent.workflow")
llms: Any = pytest.importorskip("llama_index.core.llms")
prompts: Any = pytest.importorskip("llama_index.core.prompts")
tools: Any = pytest.importorskip("llama_index.core.tools")

# Its agents look at every attribute of what Pydantic made, those with old names too.
OLD_NAMES = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
TEXT = "I see: 你好 🙂 and more."


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=99)


SAID = '{"name": "Ada", "age": 36}'
ADA = Person(name="Ada", age=36)
TALK = [llms.ChatMessage(role="system", content="be brief"), llms.ChatMessage(role="user", content="hello")]
ASK = prompts.PromptTemplate("Who is {who}?")


def model(told: Told, **settings: Any) -> Any:
    return openai_like.OpenAILike(
        **{
            "model": "toy", "api_base": told.url, "api_key": "none", "context_window": 2048,
            "is_chat_model": True, "max_retries": 0, **settings,
        }
    )  # fmt: skip


def functions(told: Told) -> list[Any]:
    """Two functions; when one is called, the model's last word is set."""

    def weather(city: str) -> str:
        """The weather in a city."""
        told.says("It rains.")
        return f"rain in {city}"

    def clock() -> str:
        """The time."""
        told.says("It rains.")
        return "noon"

    return [tools.FunctionTool.from_defaults(each) for each in (weather, clock)]


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_says(told: Told, page: str) -> None:
    told.says(TEXT)
    names: dict[str, Any] = {}
    exec(told.typed(example(page, "LlamaIndex")), names)
    assert str(names["llm"].complete("hello")) == TEXT
    assert len(names["embeddings"].get_text_embedding("hello")) == 8


def test_chats(told: Told) -> None:
    told.says(TEXT)
    llm = model(told, temperature=0, logprobs=True, top_logprobs=2)
    reply = llm.chat(TALK)
    assert reply.message.content == TEXT
    assert all(len(likely) == 2 for likely in reply.logprobs)
    parts = list(model(told).stream_chat(TALK))
    assert len(parts) > 2
    assert "".join(part.delta or "" for part in parts) == parts[-1].message.content == TEXT
    assert str(model(told).complete("hello")) == TEXT
    assert "".join(part.delta or "" for part in model(told).stream_complete("hello")) == TEXT


def test_asynchronously(told: Told) -> None:
    told.says(TEXT)

    async def everything() -> None:
        llm = model(told, reuse_client=True)
        assert (await llm.achat(TALK)).message.content == TEXT
        assert "".join([part.delta or "" async for part in await llm.astream_chat(TALK)]) == TEXT
        assert str(await llm.acomplete("hello")) == TEXT
        assert "".join([part.delta or "" async for part in await llm.astream_complete("hello")]) == TEXT
        await llm._get_aclient().close()

    asyncio.run(everything())


def test_texts(told: Told) -> None:
    """Without `is_chat_model` it uses `/v1/completions`, for conversations too."""
    llm = model(told, is_chat_model=False, max_tokens=6, temperature=0)
    assert "".join(part.delta or "" for part in llm.stream_complete("Once")) == llm.complete("Once").text
    assert llm.chat(TALK).message.role == "assistant"


def test_a_call_and_its_result(told: Told) -> None:
    told.says(f"Let me see.\n{WEATHER_CALL}\n{TIME_CALL}")
    llm = model(told, is_function_calling_model=True)
    known = functions(told)
    for reply in (
        llm.chat_with_tools(known, "weather and time?", allow_parallel_tool_calls=True),
        list(llm.stream_chat_with_tools(known, "weather and time?", allow_parallel_tool_calls=True))[-1],
    ):
        calls = llm.get_tool_calls_from_response(reply)
        assert [(call.tool_name, call.tool_kwargs) for call in calls] == [
            ("weather", {"city": "Oslo"}), ("clock", {}),
        ]  # fmt: skip
    told.says(WEATHER_CALL)
    assert str(llm.predict_and_call(known, "weather?")) == "rain in Oslo"
    told.says("No, I would rather talk.")
    forced = llm.chat_with_tools(known[1:], "time?", tool_required=True)
    assert [call.tool_name for call in llm.get_tool_calls_from_response(forced)] == ["clock"]


@OLD_NAMES
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_an_agent(told: Told, streaming: bool) -> None:
    told.says(f"Let me see.\n{WEATHER_CALL}")

    async def ask() -> str:
        llm = model(told, is_function_calling_model=True, reuse_client=True)
        agent = agents.FunctionAgent(
            tools=functions(told), llm=llm, system_prompt="be brief", streaming=streaming
        )
        answer = str(await agent.run("weather?"))
        await llm._get_aclient().close()
        return answer

    assert asyncio.run(ask()) == "It rains."
    [read] = told.conversations(1)
    assert [each["role"] for each in read] == ["system", "user", "assistant", "tool"]
    assert read[-1]["content"] == "rain in Oslo"


@OLD_NAMES
def test_structured_output(told: Told) -> None:
    told.says(SAID)
    by_schema = model(told, should_use_structured_outputs=True)
    assert by_schema.structured_predict(Person, ASK, who="Ada") == ADA
    assert by_schema.as_structured_llm(Person).chat(TALK).raw == ADA
    *_, last = by_schema.as_structured_llm(Person).stream_chat(TALK)
    assert last.raw == ADA
    told.says(f'<tool_call>\n{{"name": "Person", "arguments": {SAID}}}\n</tool_call>')
    by_call = model(told, is_function_calling_model=True)
    assert by_call.structured_predict(Person, ASK, who="Ada") == ADA


def test_embeddings(told: Told) -> None:
    embedding = openai_like_embedding.OpenAILikeEmbedding(
        model_name="toy", api_base=told.url, api_key="none", max_retries=0, reuse_client=True
    )
    both = embedding.get_text_embedding_batch(["hello", "goodbye"])
    assert both == [embedding.get_text_embedding("hello"), embedding.get_query_embedding("goodbye")]

    async def later() -> Any:
        found = await embedding.aget_text_embedding_batch(["hello", "goodbye"])
        await embedding._get_aclient().close()
        return found

    assert asyncio.run(later()) == both


def test_errors(told: Told) -> None:
    with pytest.raises(Exception, match="there is no model 'huge'"):
        model(told, model="huge").chat(TALK)
