"""Requests beside each other: one that is left, put off or impossible changes no other's text."""

from __future__ import annotations

import asyncio
import json
import math
import random
from pathlib import Path
from typing import Any

import httpx

from server.running import PATIENCE, Running, toy_server

PREFIX = "a long beginning that all of them share, some pages of it " * 3


def client(here: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=here.url, timeout=PATIENCE, trust_env=False)


async def complete(web: httpx.AsyncClient, prompt: str, **more: Any) -> Any:
    asked = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "logprobs": 2, **more}
    return (await web.post("/v1/completions", json=asked)).raise_for_status().json()["choices"]


async def leave_early(web: httpx.AsyncClient, prompt: str, after: float) -> None:
    """Asks, and goes away in the midst of the prompt or of the answer."""
    asked = {"prompt": prompt, "max_tokens": 200, "ignore_eos": True, "stream": True}
    try:
        async with asyncio.timeout(after), web.stream("POST", "/v1/completions", json=asked) as reply:
            await reply.aread()
    except TimeoutError:
        pass


def test_who_cancels_in_a_shared_prompt_leaves_nothing_wrong_in_the_cache(tmp_path: Path) -> None:
    """Half-filled pages are not found by others: log-probabilities are those of a server of one's own."""
    draw = random.Random(3)
    with toy_server(tmp_path, server={"max_queue": 200}) as here:

        async def rounds() -> None:
            async with client(here) as web:
                for number in range(10):
                    tags = [f"{PREFIX} tag {draw.randrange(10**9)} {number}" for _ in range(12)]
                    leaving = (
                        leave_early(web, f"{PREFIX} leaving {n} {number}", 0.002 * n) for n in range(4)
                    )
                    told, *_ = await asyncio.gather(
                        asyncio.gather(*(complete(web, tag) for tag in tags)), *leaving
                    )
                    seen.update(zip(tags, told, strict=True))

        seen: dict[str, Any] = {}
        asyncio.run(rounds())
        here.settled()
    with toy_server(tmp_path) as fresh:

        async def again() -> None:
            async with client(fresh) as web:
                for tag in list(seen)[::8]:
                    assert await complete(web, tag) == seen[tag], tag

        asyncio.run(again())


def test_preempted_requests_say_the_same(tmp_path: Path) -> None:
    """Pages for little more than one context, and eight that want half of it each."""
    asked = [f"{number} wants much room" for number in range(8)]

    async def together(here: Running) -> list[Any]:
        async with client(here) as web:
            return list(await asyncio.gather(*(complete(web, text, max_tokens=220) for text in asked)))

    async def in_turn(here: Running) -> list[Any]:
        async with client(here) as web:
            return [await complete(web, text, max_tokens=220) for text in asked]

    with toy_server(tmp_path, num_pages=38) as tight:
        crowded = asyncio.run(together(tight))
        assert tight.service.stats()["preemptions"] > 0
    with toy_server(tmp_path) as roomy:
        assert asyncio.run(in_turn(roomy)) == crowded


def test_what_no_token_can_fulfil_is_an_answer_all_the_same(tmp_path: Path) -> None:
    """All tokens banned, all forced, no probability left: JSON has no NaN, and the next request is served."""
    with toy_server(tmp_path) as here, here.client() as web:
        everything: list[dict[str, Any]] = [
            {"logit_bias": {str(token): -100 for token in range(260)}},
            {"logit_bias": {str(token): 100 for token in range(260)}},
            {"logit_bias": {"65": 100}, "temperature": 2.0, "top_p": 0.0},
            {"temperature": 1e-30, "seed": 1}, {"temperature": 2, "min_p": 1.0},
            {"top_k": 1, "temperature": 2},
            {"repetition_penalty": 100.0}, {"repetition_penalty": 1e-30},
            {"presence_penalty": 2, "frequency_penalty": 2, "temperature": 1e-5},
        ]  # fmt: skip
        for change in everything:
            asked = {"prompt": "x", "max_tokens": 6, "ignore_eos": True, "logprobs": 5, **change}
            reply = web.post("/v1/completions", json=asked)
            assert reply.status_code in (200, 400), (change, reply.text)
            document = json.loads(reply.text, parse_constant=lambda name: [][len(name)])
            if reply.status_code == 200:
                told = document["choices"][0]["logprobs"]
                assert all(math.isfinite(value) for value in told["token_logprobs"])
        here.settled()


def test_choices_of_one_request_are_alone_too(tmp_path: Path) -> None:
    """Sixteen choices at once are what sixteen requests with their seeds are."""
    with toy_server(tmp_path) as here:

        async def both() -> None:
            async with client(here) as web:
                several = await complete(web, "n", temperature=1.0, seed=100, n=16)
                for index, choice in enumerate(several):
                    (single,) = await complete(web, "n", temperature=1.0, seed=100 + index)
                    assert {**single, "index": index} == choice

        asyncio.run(both())
