"""Mixed load for a while: memory, descriptors, threads, tasks and pages stay, and so do fifty answers."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.running import PATIENCE, Running, toy_server, until
from text.samples import mixed_texts

GOLDEN = list(mixed_texts(50, seed=9))
WORKERS = 12
CANCELLED, BAD = 0.10, 0.05
BAD_REQUESTS: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [{"role": "user", "content": "x"}], "temperature": "hot"},
    {"messages": [{"role": "user", "content": "x" * 2000}]},  # more than the context
    {"messages": [{"role": "user", "content": "x"}], "n": 10_000},
    {"messages": [{"role": "user", "content": "x"}], "no_such_field": 1},
]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with toy_server(tmp_path) as server:
        yield server


async def golden(client: httpx.AsyncClient) -> list[Any]:
    """Fifty answers at temperature 0, and fifty with a seed."""
    replies = []
    for text in GOLDEN:
        for sampling in ({"temperature": 0}, {"temperature": 1, "seed": 3}):
            asked = {"prompt": text, "max_tokens": 16, "ignore_eos": True, **sampling}
            replies.append((await client.post("/v1/completions", json=asked)).json()["choices"])
    return replies


async def work(client: httpx.AsyncClient, seed: int, end: float, done: dict[str, int]) -> None:
    """One client: mostly ordinary requests, some that it leaves, some that are wrong."""
    draw = random.Random(seed)
    while time.monotonic() < end:
        kind = draw.random()
        text = f"{draw.random()} " * draw.choice([1, 2, 4, 18])
        asked: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": draw.randint(1, 40),
            "temperature": draw.choice([0, 1]),
            "stream": draw.random() < 0.5,
            "logprobs": draw.random() < 0.2,
            "n": draw.choice([1, 1, 1, 3]),
        }
        if kind < BAD:
            reply = await client.post("/v1/chat/completions", json=draw.choice(BAD_REQUESTS))
            assert reply.status_code == 400, reply.text
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
            done["bad"] += 1
        elif kind < BAD + CANCELLED:
            asked |= {"stream": True, "max_tokens": 300, "ignore_eos": True}
            async with client.stream("POST", "/v1/chat/completions", json=asked) as reply:
                async for _ in reply.aiter_raw(64):
                    break
            done["cancelled"] += 1
        else:
            reply = await client.post("/v1/chat/completions", json=asked)
            assert reply.status_code in (200, 429), reply.text
            done["answered" if reply.status_code == 200 else "refused"] += 1


async def watch(here: Running, end: float, seen: list[tuple[int, int, int, int]]) -> None:
    """Counts what must not grow, ten times a second."""
    while time.monotonic() < end:
        seen.append(counted(here))
        await asyncio.sleep(0.1)


def counted(here: Running) -> tuple[int, int, int, int]:
    """Resident bytes, descriptors, threads, and tasks of the server's loop."""
    process = psutil.Process()
    return (
        process.memory_info().rss,
        process.num_fds(),
        process.num_threads(),
        len(asyncio.all_tasks(here.loop)),
    )


async def soak(here: Running, seconds: float) -> tuple[dict[str, int], list[tuple[int, int, int, int]]]:
    limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
    done = {"answered": 0, "refused": 0, "cancelled": 0, "bad": 0}
    seen: list[tuple[int, int, int, int]] = []
    async with httpx.AsyncClient(
        base_url=here.url, timeout=PATIENCE, trust_env=False, limits=limits
    ) as client:
        before = await golden(client)
        end = time.monotonic() + seconds
        await asyncio.gather(
            *(work(client, seed, end, done) for seed in range(WORKERS)), watch(here, end, seen)
        )
        assert await golden(client) == before
    return done, seen


def minutes() -> float:
    """How long a soak by hand takes: `SOAK_MINUTES=60 pytest -m slow tests/server/test_soak.py`."""
    return float(os.environ.get("SOAK_MINUTES", "5"))


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(15.0, id="short"),
        pytest.param(
            60 * minutes(), id="long", marks=[pytest.mark.slow, pytest.mark.timeout(60 * minutes() + 600)]
        ),
    ],
)
def test_nothing_grows_and_no_answer_changes(here: Running, seconds: float) -> None:
    asyncio.run(soak(here, 1.0))  # what is made once is made
    here.settled()
    before = counted(here)
    done, seen = asyncio.run(soak(here, seconds))
    here.settled()
    assert all(done[kind] for kind in ("answered", "cancelled", "bad")), done
    # Descriptors, threads and tasks; a connection that the client has closed is gone a moment later.
    until(lambda: all(now <= then for now, then in zip(counted(here)[1:], before[1:], strict=True)))
    third = len(seen) // 3
    early, late = (statistics.median(s[0] for s in part) for part in (seen[third : 2 * third], seen[-third:]))
    grown, took = (late - early) / 1e6, seconds / 60 / 2
    # Of this whole process, with what thousands of other tests left in it: a leak of a request would be more.
    assert grown < max(8.0, 0.5 * took), f"{grown:.1f} MB more after {took:.1f} minutes"
