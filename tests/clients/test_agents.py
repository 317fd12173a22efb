"""Libraries for agents on top of OpenAI's client, each over chat completions and over responses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field

from clients.told import WEATHER_CALL, Told

SAID = '{"name": "Ada", "age": 36}'


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=99)


ADA = Person(name="Ada", age=36)


def tool_of(told: Told) -> Any:
    """A function; when it is called, the model's last word is set."""

    def weather(city: str) -> str:
        """The weather in a city."""
        told.says("It rains.")
        return f"rain in {city}"

    return weather


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
def test_openai_agents(told: Told, form: str, stream: bool) -> None:
    agents: Any = pytest.importorskip("agents")
    openai: Any = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)  # or it reports to OpenAI

    async def ask(agent: Any) -> Any:
        if not stream:
            return (await agents.Runner.run(agent, "weather?")).final_output
        result = agents.Runner.run_streamed(agent, "weather?")
        assert [event async for event in result.stream_events()]
        return result.final_output

    async def everything() -> None:
        async with openai.AsyncOpenAI(base_url=told.url, api_key="none", max_retries=0) as client:
            model = getattr(agents, form)(model="toy", openai_client=client)
            told.says(WEATHER_CALL)
            weather = agents.function_tool(tool_of(told))
            agent = agents.Agent(name="a", instructions="be brief", model=model, tools=[weather])
            assert await ask(agent) == "It rains."
            assert told.conversations(1)[0][-1]["content"] == "rain in Oslo"
            told.says(SAID)
            assert await ask(agents.Agent(name="b", model=model, output_type=Person)) == ADA

    asyncio.run(everything())


@pytest.mark.parametrize("form", ["OpenAIChatModel", "OpenAIResponsesModel"])
def test_pydantic_ai(told: Told, form: str) -> None:
    pydantic_ai: Any = pytest.importorskip("pydantic_ai")
    models: Any = pytest.importorskip("pydantic_ai.models.openai")
    providers: Any = pytest.importorskip("pydantic_ai.providers.openai")
    openai: Any = pytest.importorskip("openai")

    async def everything() -> None:
        async with openai.AsyncOpenAI(base_url=told.url, api_key="none", max_retries=0) as client:
            model = getattr(models, form)("toy", provider=providers.OpenAIProvider(openai_client=client))
            told.says(WEATHER_CALL)
            agent = pydantic_ai.Agent(model, instructions="be brief", tools=[tool_of(told)])
            assert (await agent.run("weather?")).output == "It rains."
            assert told.conversations(1)[0][-1]["content"] == "rain in Oslo"
            async with pydantic_ai.Agent(model).run_stream("hello") as stream:
                assert "".join([part async for part in stream.stream_text(delta=True)]) == "It rains."
            told.says(SAID)
            form_of = pydantic_ai.NativeOutput(Person)
            assert (await pydantic_ai.Agent(model, output_type=form_of).run("who?")).output == ADA
            told.says(f'<tool_call>\n{{"name": "final_result", "arguments": {SAID}}}\n</tool_call>')
            assert (await pydantic_ai.Agent(model, output_type=Person).run("who?")).output == ADA

    asyncio.run(everything())


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON"])
def test_instructor(told: Told, mode: str) -> None:
    instructor: Any = pytest.importorskip("instructor")
    openai: Any = pytest.importorskip("openai")
    call = f'<tool_call>\n{{"name": "Person", "arguments": {SAID}}}\n</tool_call>'
    told.says(call if mode == "TOOLS" else f"```json\n{SAID}\n```" if mode == "MD_JSON" else SAID)
    with openai.OpenAI(base_url=told.url, api_key="none", max_retries=0) as plain:
        client = instructor.from_openai(plain, mode=getattr(instructor.Mode, mode))
        found = client.chat.completions.create(
            model="toy", response_model=Person, messages=[{"role": "user", "content": "who?"}]
        )
    assert found.model_dump() == ADA.model_dump()  # of a class that Instructor makes
