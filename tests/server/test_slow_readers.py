"""Clients that hardly read, and work that takes long: nobody else waits, and memory has a bound."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.raw_http import connect, head, post, read, say
from server.running import Running, toy_server, until

READERS = 40
MOST_AT_A_STRETCH = 0.2  # seconds of processor time that the loop takes without looking up


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with toy_server(tmp_path, num_pages=600) as server:
        yield server


def test_slow_readers_hold_nobody_up(here: Running) -> None:
    """Many that read a byte now and then: what is written for them waits, and the engine does not."""
    asks = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True, "logprobs": 20}
    body = json.dumps(asks)
    before = psutil.Process().memory_info().rss
    slow = [socket.socket() for _ in range(READERS)]
    try:
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the server must wait
            connection.connect(("127.0.0.1", here.port))
            connection.sendall(post("/v1/completions", body.encode()))
        until(lambda: here.busy()[1] > 0)
        asked = json.dumps({"prompt": "quick", "max_tokens": 2}).encode()
        assert say(here, post("/v1/completions", asked)).status in (200, 429)
        until(lambda: here.busy()[1:] == (0, 0))  # the engine has done its work; readers may take their time
        assert say(here, post("/v1/completions", asked)).status == 200
        for _ in range(3):
            for connection in slow:
                assert len(connection.recv(1)) == 1
        assert say(here, head("GET", "/health")).status == 200
        assert psutil.Process().memory_info().rss - before < 150e6
    finally:
        for connection in slow:
            connection.close()
    here.settled()


class Beats:
    """The most that the server's loop has computed at a stretch: processor time of its own thread.

    Wall-clock time would tell how busy the machine is; this tells what the loop does not give away.
    """

    def __init__(self, here: Running) -> None:
        self.longest = 0.0
        self._task = asyncio.run_coroutine_threadsafe(self._beat(), here.loop)

    async def _beat(self) -> None:
        while True:
            start = time.thread_time()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.thread_time() - start)

    def stop(self) -> float:
        self._task.cancel()
        return self.longest


def test_large_prompts_do_not_hold_the_loop_up(here: Running) -> None:
    """A megabyte to tokenize, four times: `/health` answers meanwhile, because the loop has little to do."""
    text = "the quick brown fox 你好 " * 40_000
    large = post(
        "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    )
    results: list[int] = []
    beats = Beats(here)
    threads = [threading.Thread(target=lambda: results.append(say(here, large).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in threads):
        assert say(here, head("GET", "/health")).status == 200
        answered += 1
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    longest = beats.stop()
    assert results == [400] * 4  # more than the context, which is known only when it has been counted
    assert answered > 3
    assert longest < MOST_AT_A_STRETCH, f"the loop computed for {longest:.2f} s"


def test_a_loop_that_is_held_up_would_be_seen(here: Running) -> None:
    async def compute() -> None:
        end = time.thread_time() + MOST_AT_A_STRETCH
        while time.thread_time() < end:
            pass

    beats = Beats(here)
    here.run(asyncio.sleep(0.05))
    here.run(compute())
    here.run(asyncio.sleep(0.05))
    assert beats.stop() >= MOST_AT_A_STRETCH


def test_a_stuck_engine_is_seen_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    gate = threading.Event()
    settings = {"stall_timeout": 0.3}
    with toy_server(tmp_path, server=settings, hook=lambda *_: gate.wait(60) and None) as stuck:
        body = json.dumps({"prompt": "x", "max_tokens": 3, "stream": True}).encode()
        with connect(stuck) as connection:
            connection.sendall(post("/v1/completions", body))
            reply = read(connection)
            assert b"engine_stalled" in reply.body
        assert say(stuck, head("GET", "/health")).status == 503
        assert say(stuck, head("GET", "/ready")).status == 503
        gate.set()
        until(lambda: say(stuck, head("GET", "/health")).status == 200)
        stuck.settled()


def test_a_dead_engine_is_seen(tmp_path: Path) -> None:
    """What must never happen: the engine's thread ends. Then health says so, and requests are refused."""
    with toy_server(tmp_path) as dead:

        class Death(BaseException):
            pass

        def die() -> None:
            raise Death

        threading.excepthook, hook = lambda _: None, threading.excepthook
        try:
            dead.llm._engine.step = die  # type: ignore[method-assign, assignment]
            body = json.dumps({"prompt": "x", "max_tokens": 3}).encode()
            reply = say(dead, post("/v1/completions", body))
            assert reply.status == 503
            assert reply.is_error
            until(lambda: say(dead, head("GET", "/health")).status == 503)
            assert say(dead, post("/v1/completions", body)).status == 503
        finally:
            threading.excepthook = hook
