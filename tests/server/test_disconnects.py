"""Clients that go away, in each state of a request: what they held is free again within two seconds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boli.engine.batch import Batch, Float32
from server.running import NAP, PATIENCE, Running, toy_server, until

AT_ONCE = 16  # what the engine runs at once
COUNT = 200
FREE_IN = 2.0


class Brake:
    """Slows the engine's steps down, so that a client can go away in the midst of one."""

    seconds = 0.0

    def __call__(self, _batch: Batch, _logits: Float32) -> None:
        time.sleep(self.seconds)


@pytest.fixture
def brake() -> Brake:
    return Brake()


@pytest.fixture
def here(tmp_path: Path, brake: Brake) -> Iterator[Running]:
    with toy_server(tmp_path, hook=brake, num_pages=600) as server:
        yield server


class Visitor:
    """A connection with one request, which can be left at any time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def ask(cls, here: Running, text: str, *, stream: bool, missing: int = 0) -> Visitor:
        """Sends a request; with `missing` so many bytes of its body are not sent."""
        body = json.dumps(
            {"prompt": text, "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": stream}
        ).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{here.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[: len(body) - missing])
        await writer.drain()
        return cls(reader, writer)

    def leave(self, *, rudely: bool) -> None:
        """Closes the connection; rudely means that the other side hears of it by a reset."""
        if rudely:
            self._writer.transport.abort()
        else:
            self._writer.close()


def running(here: Running) -> int:
    return len(here.llm._engine.scheduler.running)


def waiting(here: Running) -> int:
    return here.service.waiting


async def come_true(done: Callable[[], bool], patience: float = PATIENCE) -> None:
    for _ in range(round(patience / NAP)):
        if done():
            return
        await asyncio.sleep(NAP)
    raise AssertionError("it does not come true")


async def streaming(here: Running, visitors: list[Visitor]) -> None:
    """All have read a piece of their answers."""
    for visitor in visitors:
        await asyncio.wait_for(visitor.reader.readuntil(b"data: "), PATIENCE)


async def decoding(here: Running, visitors: list[Visitor]) -> None:
    """All are being answered, and have not heard anything yet."""
    scheduler = here.llm._engine.scheduler
    await come_true(
        lambda: len(scheduler.running) == len(visitors) and all(r.output for r in list(scheduler.running))
    )


async def prefilling(here: Running, visitors: list[Visitor]) -> None:
    """The prompts are being read, and none is through."""
    await come_true(lambda: running(here) > 0)
    assert not any(request.output for request in list(here.llm._engine.scheduler.running))


STATES: dict[str, tuple[bool, str, Callable[[Running, list[Visitor]], Awaitable[None]]]] = {
    "streaming": (True, "go on", streaming),
    "not streaming": (False, "go on", decoding),
    "prefill": (True, "a long prompt " * 30, prefilling),
}


@pytest.mark.parametrize("state", STATES)
def test_whoever_leaves_frees_everything(here: Running, brake: Brake, state: str) -> None:
    stream, text, reached = STATES[state]
    brake.seconds = 0.05 if state == "prefill" else 0.005

    async def round_of(number: int) -> None:
        visitors = [
            await Visitor.ask(here, f"{number} {index} {text}", stream=stream) for index in range(AT_ONCE)
        ]
        await reached(here, visitors)
        for index, visitor in enumerate(visitors):
            visitor.leave(rudely=bool(index % 2))
        await come_true(lambda: here.busy() == (0, 0, 0), FREE_IN)

    for number in range(-(-COUNT // AT_ONCE)):
        asyncio.run(round_of(number))
    here.settled()


def test_whoever_leaves_the_queue_frees_the_place(here: Running, brake: Brake) -> None:
    brake.seconds = 0.01

    async def whole() -> None:
        busy = [await Visitor.ask(here, f"busy {index}", stream=True) for index in range(AT_ONCE)]
        await streaming(here, busy)
        for number in range(4):
            queued = [
                await Visitor.ask(here, f"{number} {index}", stream=bool(index % 3))
                for index in range(COUNT // 4)
            ]
            await come_true(lambda: waiting(here) == COUNT // 4)
            for index, visitor in enumerate(queued):
                visitor.leave(rudely=bool(index % 2))
            await come_true(lambda: waiting(here) == 0, FREE_IN)
        assert running(here) == AT_ONCE  # those were not disturbed
        for visitor in busy:
            visitor.leave(rudely=False)

    asyncio.run(whole())
    here.settled(FREE_IN)


def test_whoever_leaves_before_the_body_is_there_costs_nothing(
    here: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "boli.server")

    async def whole() -> None:
        visitors = [await Visitor.ask(here, "x", stream=True, missing=5) for _ in range(50)]
        assert here.busy() == (0, 0, 0)
        for index, visitor in enumerate(visitors):
            visitor.leave(rudely=bool(index % 2))

    asyncio.run(whole())
    until(lambda: sum(record.message == "http" for record in list(caplog.records)) == 50)
    assert {record.levelname for record in caplog.records} == {"INFO"}  # the server did nothing wrong
    with here.client() as client:
        assert client.get("/health").status_code == 200


def test_an_answer_after_many_who_left_is_the_same(here: Running, brake: Brake) -> None:
    asked: dict[str, Any] = {"prompt": "the same", "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    with here.client() as client:
        before = client.post("/v1/completions", json=asked).json()["choices"]
        brake.seconds = 0.002

        async def noise() -> None:
            visitors = [await Visitor.ask(here, f"the same {index}", stream=True) for index in range(AT_ONCE)]
            await streaming(here, visitors)
            for visitor in visitors:
                visitor.leave(rudely=True)

        asyncio.run(noise())
        brake.seconds = 0.0
        assert client.post("/v1/completions", json=asked).json()["choices"] == before
