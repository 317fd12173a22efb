"""The queue: who is refused, why requests wait, and what happens when the engine is stuck."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from boli.engine.batch import Batch, Float32
from server.running import Running, toy_server, until

LONG: dict[str, Any] = {"prompt": "hello", "max_tokens": 400, "ignore_eos": True, "temperature": 0}


class Gate:
    """A hook of the toy runner: steps wait while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def __call__(self, batch: Batch, logits: Float32) -> None:
        assert self.open.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def start(pool: ThreadPoolExecutor, here: Running, **wish: Any) -> Any:
    def ask() -> httpx.Response:
        with here.client() as client:
            return client.post("/v1/completions", json=LONG | wish)

    return pool.submit(ask)


def test_a_full_queue_refuses_at_once(tmp_path: Path, gate: Gate) -> None:
    with (
        toy_server(tmp_path, server={"max_queue": 2}, hook=gate, num_pages=400) as here,
        ThreadPoolExecutor(32) as pool,
        here.client() as client,
    ):
        scheduler = here.llm._engine.scheduler
        gate.open.clear()
        runs = [start(pool, here, max_tokens=5)]
        until(lambda: len(scheduler.running) == 1)
        # The engine is in a step, so that all others wait in the inbox.
        runs += [start(pool, here, max_tokens=5) for _ in range(2)]
        until(lambda: here.service.waiting == 2)
        before = time.monotonic()
        reply = client.post("/v1/completions", json=LONG)
        assert time.monotonic() - before < 5
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        gate.open.set()
        assert [each.result().status_code for each in runs] == [200] * 3
        assert client.post("/v1/completions", json=LONG | {"max_tokens": 1}).status_code == 200


def test_a_request_that_fans_out_is_taken_where_nobody_waits(tmp_path: Path) -> None:
    with toy_server(tmp_path, server={"max_queue": 1}) as here, here.client() as client:
        reply = client.post("/v1/completions", json=LONG | {"n": 16, "max_tokens": 3})
        assert len(reply.json()["choices"]) == 16


def test_it_is_said_why_a_request_waited(tmp_path: Path, gate: Gate) -> None:
    with (
        toy_server(tmp_path, hook=gate, num_pages=36) as here,  # of 16 positions: one full context
        ThreadPoolExecutor(8) as pool,
        here.client() as client,
    ):
        gate.open.clear()
        first = start(pool, here, prompt="x" * 300, max_tokens=150)
        until(lambda: bool(here.llm._engine.scheduler.running))
        second = start(pool, here, prompt="y" * 300, max_tokens=5)
        until(lambda: client.get("/stats").json()["waiting"] == 1)
        gate.open.set()
        for each in (first, second):
            assert each.result().status_code == 200
        recent = client.get("/stats").json()["recent"]
        waited = next(
            each for each in recent if each["prompt_tokens"] == 300 and each["generated_tokens"] == 5
        )
        assert waited["waits"]["seconds"]["pages"] > 0
        assert waited["waits"]["pages_short"] > 0
        assert f"{waited['waits']['pages_short']} pages short for" in waited["why_waited"]


def test_an_engine_that_is_stuck_is_seen_and_its_clients_are_told(tmp_path: Path, gate: Gate) -> None:
    with (
        toy_server(tmp_path, server={"stall_timeout": 0.5}, hook=gate) as here,
        ThreadPoolExecutor(4) as pool,
        here.client() as client,
    ):
        gate.open.clear()
        stuck = start(pool, here)
        reply = stuck.result()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_stalled")
        assert client.get("/health").status_code == 503
        assert client.get("/ready").status_code == 503
        gate.open.set()
        until(lambda: client.get("/health").status_code == 200)
        assert client.post("/v1/completions", json=LONG | {"max_tokens": 2}).status_code == 200


def test_a_dead_engine_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with toy_server(tmp_path) as here, here.client() as client:

        def die() -> bool:
            raise SystemExit

        monkeypatch.setattr(here.llm._engine, "step", die)
        reply = client.post("/v1/completions", json=LONG)
        assert reply.status_code == 503
        assert client.get("/health").status_code == 503
        assert client.post("/v1/completions", json=LONG).json()["error"]["code"] == "engine_dead"
        monkeypatch.undo()


def test_many_streams_are_written_less_often_and_say_the_same(tmp_path: Path) -> None:
    with (
        toy_server(tmp_path, server={"stream_interval": 10.0}) as here,
        ThreadPoolExecutor(8) as pool,
        here.client() as client,
    ):
        wish = {"max_tokens": 100}
        alone = [
            client.post("/v1/completions", json=LONG | wish | {"prompt": f"text {index}"}).json()
            for index in range(8)
        ]
        runs = [start(pool, here, prompt=f"text {index}", stream=True, **wish) for index in range(8)]
        for run, reply in zip(runs, alone, strict=True):
            frames = [line[6:] for line in run.result().text.split("\n\n") if line.startswith("data: {")]
            text = "".join(json.loads(each)["choices"][0]["text"] for each in frames)
            assert text == reply["choices"][0]["text"]
        here.settled()
