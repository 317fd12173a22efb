"""One request for a chat completion, and when its tokens came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from load.wire import Exchange, WireError


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for.

    Attributes:
        text: The user's message.
        max_tokens: How many tokens are generated; end tokens do not end the answer.
        seed: For sampling.
        temperature: At 0.8 a small model does not fall into loops.
    """

    text: str
    max_tokens: int
    seed: int
    temperature: float = 0.8

    def body(self) -> bytes:
        """As both servers take it."""
        return json.dumps(
            {
                "messages": [{"role": "user", "content": self.text}],
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                "seed": self.seed,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()


@dataclass(slots=True)
class Sample:
    """What came of it. Times are seconds on the clock of `time.perf_counter`.

    Attributes:
        due: When it was to be sent. Latencies count from here, so that a client that is late cannot
            hide that the server was.
        status: Of HTTP; 0 if there was no reply.
        error: What went wrong, in words.
        stamps: When each piece of text came.
        ended: When the last byte came.
        prompt_tokens: From `usage`.
        output_tokens: From `usage`; pieces of text are not tokens.
        cached_tokens: From `usage`.
        retry_after: Whether a refusal said when to come again.
    """

    due: float
    status: int = 0
    error: str = ""
    stamps: list[float] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    retry_after: bool = False

    @property
    def good(self) -> bool:
        """Whether it was answered to its end."""
        return self.status == 200 and not self.error and self.output_tokens > 0 and bool(self.stamps)

    @property
    def ttft(self) -> float:
        """Time to the first piece of text."""
        return self.stamps[0] - self.due

    @property
    def e2e(self) -> float:
        """Time to the end."""
        return self.ended - self.due

    @property
    def gaps(self) -> list[float]:
        """Times between pieces of text."""
        return [later - earlier for earlier, later in zip(self.stamps, self.stamps[1:], strict=False)]

    @property
    def tpot(self) -> float:
        """Time for each token behind the first."""
        return (self.stamps[-1] - self.stamps[0]) / max(1, self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens."""

    host: str
    port: int


async def ask(place: Place, question: Ask, due: float, patience: float) -> Sample:
    """Sends a question and reads the answer; whatever happens is in the sample.

    Args:
        place: Of the server.
        question: What is asked.
        due: When it was to be sent.
        patience: The most seconds that this may take.
    """
    sample = Sample(due)
    exchange = Exchange(place.host, place.port)
    try:
        async with asyncio.timeout(patience):
            await _exchange(exchange, question, sample)
    except (OSError, WireError, TimeoutError, ValueError) as error:
        sample.error = f"{type(error).__name__}: {error}"
    finally:
        sample.ended = time.perf_counter()
        exchange.close()
    return sample


async def _exchange(exchange: Exchange, question: Ask, sample: Sample) -> None:
    head = await exchange.send("POST", "/v1/chat/completions", question.body())
    sample.status = head.status
    sample.retry_after = "retry-after" in head.headers
    if head.status != 200:
        sample.error = (await exchange.body()).decode(errors="replace")[:300]
        return
    done = False
    async for now, data in exchange.events():
        if data == b"[DONE]":
            done = True
            continue
        _read(json.loads(data), now, sample)
    if not done and not sample.error:
        sample.error = "the stream ended without [DONE]"


def _read(chunk: dict[str, Any], now: float, sample: Sample) -> None:
    if chunk.get("error"):
        sample.error = json.dumps(chunk["error"])[:300]
    for choice in chunk.get("choices") or []:
        if choice["delta"].get("content"):
            sample.stamps.append(now)
    usage = chunk.get("usage")
    if usage:
        sample.prompt_tokens = usage["prompt_tokens"]
        sample.output_tokens = usage["completion_tokens"]
        sample.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


async def together(place: Place, questions: Sequence[Ask], patience: float) -> list[Sample]:
    """Asks all at once."""
    now = time.perf_counter()
    return await asyncio.gather(*(ask(place, question, now, patience) for question in questions))


async def on_time(
    place: Place, questions: Sequence[Ask], offsets: Sequence[float], patience: float
) -> list[Sample]:
    """Asks each at its time from now on, whatever has become of those before: an open loop.

    Args:
        place: Of the server.
        questions: As many as there are times.
        offsets: Seconds from now on, ascending.
        patience: The most seconds that an answer may take.
    """
    start = time.perf_counter()
    tasks = []
    for question, offset in zip(questions, offsets, strict=True):
        await asyncio.sleep(start + offset - time.perf_counter())
        tasks.append(asyncio.create_task(ask(place, question, start + offset, patience)))
    return list(await asyncio.gather(*tasks))


async def in_turn(place: Place, questions: Sequence[Ask], streams: int, patience: float) -> list[Sample]:
    """Keeps so many streams busy until all questions are answered: a closed loop, for capacity only."""
    left = list(reversed(questions))
    samples: list[Sample] = []

    async def stream() -> None:
        while left:
            samples.append(await ask(place, left.pop(), time.perf_counter(), patience))

    await asyncio.gather(*(stream() for _ in range(streams)))
    return samples
