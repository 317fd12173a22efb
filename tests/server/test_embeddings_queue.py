"""Requests for vectors are requests like others: seen, counted, in turns, and brought to an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from boli.engine.batch import Batch, Float32
from boli.server.embeddings_queue import EmbeddingJob
from boli.server.errors import ApiError
from server.running import PATIENCE, Running, toy_server, until


class Gate:
    """Holds a server's steps for vectors while it is shut, and keeps the order of all steps."""

    def __init__(self, here: Running) -> None:
        self.open = threading.Event()
        self.held = threading.Event()
        self.steps = ""
        runner = here.llm._engine.runner
        runner.hidden = self._watched("h", runner.hidden)  # type: ignore[method-assign, assignment]
        runner.forward = self._watched("f", runner.forward)  # type: ignore[method-assign, assignment]

    def _watched(self, name: str, work: Callable[[Batch], Float32]) -> Callable[[Batch], Float32]:
        def call(batch: Batch) -> Float32:
            self.steps += name
            if name == "f":
                time.sleep(0.002)  # as a step of a real model takes at least
            else:
                self.held.set()
                assert self.open.wait(PATIENCE)
            return work(batch)

        return call


@contextmanager
def gated(folder: Path, **settings: Any) -> Iterator[tuple[Running, Gate]]:
    with toy_server(folder, **settings) as here:
        gate = Gate(here)
        try:
            yield here, gate
        finally:
            gate.open.set()


def ask(here: Running, count: int = 3) -> httpx.Response:
    with here.client() as client:
        return client.post("/v1/embeddings", json={"input": ["x" * 40] * count})


def numbers(here: Running) -> dict[str, float]:
    with here.client() as client:
        families = text_string_to_metric_families(client.get("/metrics").text)
    wanted = ("_total", "_count", "_running", "_waiting")
    samples = [each for family in families for each in family.samples if each.name.endswith(wanted)]
    return {each.name + each.labels.get("finished_reason", ""): each.value for each in samples}


def stats(here: Running) -> dict[str, Any]:
    with here.client() as client:
        seen: dict[str, Any] = client.get("/stats").json()
    return seen


def test_they_are_seen_while_they_run_and_counted_when_they_end(tmp_path: Path) -> None:
    with gated(tmp_path, max_rows=40) as (here, gate), ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, here)
        assert gate.held.wait(PATIENCE)
        second = pool.submit(ask, here, 2)
        until(lambda: here.service.stats()["open"] == 2)
        seen = stats(here)
        assert (seen["running"], seen["waiting"], seen["open"]) == (1, 1, 2)
        running, waiting = seen["requests"]
        assert [running[name] for name in ("kind", "state", "prompt_tokens")] == ["embedding", "running", 120]
        assert running["pages"] == seen["pages"]["used"] == 3
        assert (waiting["state"], waiting["prompt_tokens"], waiting["pages"]) == ("waiting", 80, 0)
        now = numbers(here)
        assert (now["boli:num_requests_running"], now["boli:num_requests_waiting"]) == (1, 1)
        gate.open.set()
        assert {first.result().status_code, second.result().status_code} == {200}
        here.settled()
        then = numbers(here)
        assert (then["boli:num_requests_running"], then["boli:num_requests_waiting"]) == (0, 0)
        assert then["boli:embedding_texts_total"] == 5
        assert then["boli:embedding_tokens_total"] == stats(here)["embedding_tokens"] == 200
        assert then["boli:request_success_totalstop"] == 2
        assert then["boli:embedding_latency_seconds_count"] == 2
        assert then["boli:prompt_tokens_total"] == then["boli:prefix_cache_queries_total"] == 0
        later, earlier = stats(here)["recent"]
        assert (earlier["kind"], earlier["texts"], earlier["finish_reason"]) == ("embedding", 3, "stop")
        assert later["why_waited"].startswith("queued behind ")
        assert later["queued_s"] > 0


def test_the_queue_is_one_with_that_of_answers(tmp_path: Path) -> None:
    with gated(tmp_path, server={"max_queue": 2}) as (here, gate), ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, here)]
        assert gate.held.wait(PATIENCE)
        asked += [pool.submit(ask, here) for _ in range(2)]
        until(lambda: here.service.waiting == 2)
        refused = ask(here)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        with here.client() as client:
            assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 429
        gate.open.set()
        assert [each.result().status_code for each in asked] == [200] * 3


def test_an_answer_waits_for_one_chunk_at_most(tmp_path: Path) -> None:
    """However many requests wait for vectors, there is one chunk between two steps of the engine."""
    with gated(tmp_path, max_rows=8) as (here, gate), ThreadPoolExecutor(8) as pool, here.client() as client:
        gate.open.set()
        asked = [pool.submit(ask, here, 40) for _ in range(8)]
        until(lambda: len(here.service.embeddings.open_jobs) == 8)
        wish = {"prompt": "y", "max_tokens": 60, "ignore_eos": True}
        assert client.post("/v1/completions", json=wish).status_code == 200
        assert {each.result().status_code for each in asked} == {200}
        between = gate.steps[gate.steps.index("f") : gate.steps.rindex("f")].split("f")
        assert set(between) <= {"", "h"}
        assert between.count("h") >= 5


def test_what_runs_when_the_server_ends_is_finished_and_what_comes_is_refused(tmp_path: Path) -> None:
    with gated(tmp_path) as (here, gate), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, here)
        assert gate.held.wait(PATIENCE)
        draining = asyncio.run_coroutine_threadsafe(here.service.drain(PATIENCE), here.loop)
        until(lambda: here.service.draining)
        late = ask(here)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert not draining.done()
        gate.open.set()
        assert draining.result(PATIENCE) == 0
        assert asked.result().status_code == 200


def test_when_the_engine_is_stuck_they_are_told(tmp_path: Path) -> None:
    with gated(tmp_path, server={"stall_timeout": 0.3}) as (here, gate):
        reply = ask(here)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_stalled")
        gate.open.set()
        here.settled()
        assert ask(here).status_code == 200


def test_a_step_that_fails_ends_its_request_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_batch: Batch) -> Float32:
        raise RuntimeError("no luck")

    with toy_server(tmp_path) as here:
        runner = here.llm._engine.runner
        hidden, runner.hidden = runner.hidden, fail  # type: ignore[method-assign, assignment]
        for _ in range(3):
            assert ask(here).status_code == 500
        assert "failed 3 times" in str(here.service.trouble)
        runner.hidden = hidden  # type: ignore[method-assign]
        assert ask(here).status_code == 200
        assert here.service.trouble is None
        assert numbers(here)["boli:request_success_totalerror"] == 3
    assert "embedding failed" in caplog.text


def test_who_leaves_at_once_leaves_nothing_behind(tmp_path: Path) -> None:
    """Some leave before their texts are taken in, some between two chunks."""

    async def leave(server: Running) -> None:
        queue = server.service.embeddings
        for steps in range(12):
            task = asyncio.create_task(queue.embed(EmbeddingJob([[1] * 100] * 40)))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert queue.open_jobs == []
        assert queue._pump is not None
        await asyncio.wait([queue._pump], timeout=30)  # it may be at one of its pauses
        assert queue._pump.done()
        assert not queue._pooler.busy
        assert not queue._inside
        assert not queue._arrived

    with toy_server(tmp_path, max_rows=8) as server:
        server.run(leave(server))
        server.settled()


def test_when_the_server_ends_who_takes_too_long_is_told(tmp_path: Path) -> None:
    with toy_server(tmp_path, max_rows=1) as server:

        async def end() -> int:
            queue = server.service.embeddings
            task = asyncio.create_task(queue.embed(EmbeddingJob([[1] * 400] * 500)))
            await asyncio.sleep(0.05)
            assert await server.service.drain(0.2) == 1
            with pytest.raises(ApiError) as raised:
                await task
            with pytest.raises(ApiError, match="shutting down"):
                await queue.embed(EmbeddingJob([[1]]))
            return raised.value.status

        assert server.run(end()) == 503
