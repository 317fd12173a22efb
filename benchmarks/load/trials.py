"""The trials of `serve.py`: each returns rows for the table, and everything that was measured."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from engines import Engine
from load.client import Ask, Sample, ask, in_turn, on_time
from load.figures import Figures, percentile, spread, summary
from load.servers import Server, ServerError
from load.traffic import poisson, questions
from load.turns import OUTPUT, PATIENCE_S, PROMPT, Turns, ttft_p99

STREAMS = 8
LONG_PROMPT, LONG_CONTEXT, BESIDE = 4000, 6144, 4
QUEUE = 32
BEFORE_S = 2.0  # that the others run before it
RECOVERY_S = 10.0
MAX_ARRIVALS = 5000
NEAR_S = 1.25  # is one second, for a percentile that a few requests decide

Found = dict[str, Any]


def row(what: str, unit: str, boli: list[float], peer: list[float] | None = None, **more: Any) -> Found:
    """A row of the table; values of all turns."""
    return {
        "what": what,
        "unit": unit,
        "boli": spread(boli),
        "peer": spread(peer) if peer else None,
        **{"target": "-", "reached": None, **more},
    }


def streams(turns: Turns) -> Found:
    """Eight streams at once."""
    runs: list[list[Figures]] = [[], []]
    with turns.both(streams=STREAMS) as servers:
        for number in range(turns.repeat):
            for server, found in zip(servers, runs, strict=False):
                found.append(turns.streams(server, count=STREAMS, seed=10 + number))
                _say(server, f"{found[-1]['output_tokens_per_s']:.0f} tok/s")
    own, peer = ([figures["output_tokens_per_s"] for figures in found] for found in runs)
    ratio = statistics.median(own) / statistics.median(peer) if peer else None
    return {
        "work": f"{STREAMS} streams, prompts of about {PROMPT} tokens, 128 tokens each",
        "rows": [
            row("output", "tok/s", own, peer, ratio=ratio, target="at least 4 ×",
                reached=None if ratio is None else ratio >= 4)
        ],
        "runs": {"boli": runs[0], "llama-server": runs[1]},
    }  # fmt: skip


def latency(turns: Turns) -> Found:
    """Time to the first token at the rate where llama-server's 99th percentile reaches one second."""
    rate = 0.0
    found: list[list[Figures]] = [[], []]
    p99: list[list[float]] = [[], []]
    searched: list[tuple[float, float]] = []
    with turns.both() as servers:
        searched = _search(turns, servers[-1])
        rate = min((rate for rate, seconds in searched if seconds >= 1), default=searched[-1][0])
        for number in range(turns.repeat):
            for n, server in enumerate(servers):
                samples, client = _open_loop(turns, server, rate, seed=100 + number)
                p99[n].append(ttft_p99(samples))
                found[n].append({**summary(samples), "client_share_of_a_core": client})
                _say(server, f"{rate:.2f} requests/s: TTFT p99 {p99[n][-1]:.3f} s")
    own = statistics.median(p99[0])
    return {
        "work": f"{rate:.2f} requests/s for {turns.requests} requests, about {PROMPT} + {OUTPUT} tokens each",
        "rows": [
            row("TTFT p99", "s", p99[0], p99[1] or None, target="under 0.25 s", reached=own < 0.25,
                ratio=own / statistics.median(p99[1]) if p99[1] else None)
        ],
        "searched": searched,
        "runs": {"boli": found[0], "llama-server": found[1]},
    }  # fmt: skip


def overhead(turns: Turns) -> Found:
    """What the server costs: the same questions to it and to the engine alone, eight at a time."""
    setting = replace(turns.setting, streams=STREAMS)
    served: list[float] = []
    bare: list[float] = []
    with turns.boli(streams=STREAMS) as server, Engine(sys.executable, "batch", setting.threads) as engine:
        engine.ask(
            "open", path=str(setting.model), context=setting.context, kv_cache_bytes=setting.kv_cache_bytes
        )
        for number in range(turns.repeat + 1):  # the first one warms up
            asked = questions(4 * STREAMS, prompt=PROMPT, output=128, seed=20 + number)
            # In turns who is first: whoever comes second finds the machine at work.
            for who in ("served", "bare") if number % 2 else ("bare", "served"):
                if who == "served":
                    speed = _throughput(turns, server, asked)
                else:
                    speed = _throughput_alone(engine, asked)
                if number:
                    (served if who == "served" else bare).append(speed)
            if number:
                print(f"  served {served[-1]:.0f}, bare {bare[-1]:.0f} tok/s", file=sys.stderr)
    lost = [100 * (1 - own / alone) for own, alone in zip(served, bare, strict=True)]
    return {
        "work": f"{4 * STREAMS} answers of 128 tokens, {STREAMS} at a time, against the engine alone",
        "rows": [
            row("output served", "tok/s", served),
            row("output of the bare engine", "tok/s", bare),
            row("lost", "%", lost, target="under 5 %", reached=statistics.median(lost) < 5),
        ],
    }


def overload(turns: Turns) -> Found:
    """Four times what it can do: what is accepted is answered in time, the rest refused at once."""
    with turns.boli(queue=QUEUE) as server:
        turns.streams(server, count=4, output=16, seed=0)
        alone = turns.streams(server, count=1, output=OUTPUT, seed=1)["ttft"]["max"]
        capacity = turns.capacity(server, seed=2)
        bound = (QUEUE + turns.setting.streams) / capacity
        _say(server, f"capacity {capacity:.2f} requests/s, so the bound is {bound:.1f} s")
        at_capacity, _ = _open_loop(turns, server, capacity, seed=3, seconds=turns.seconds)
        before = server.resident()
        overloaded, client = _open_loop(turns, server, 4 * capacity, seed=4, seconds=turns.seconds)
        after = server.resident()
        asked = questions(3, prompt=PROMPT, output=OUTPUT, seed=5)
        recovered, _ = turns.put(server, lambda at: _later(at, partial(in_turn, at.place, asked, 1)))
    usual, flood = summary(at_capacity, ttft=bound), summary(overloaded, ttft=bound)
    share = flood["goodput_per_s"] / usual["goodput_per_s"]
    slowest = max(sample.ttft for sample in turns.all_good(server, recovered))
    statuses = set(flood["statuses"])
    return {
        "work": f"{4 * capacity:.1f} requests/s for {turns.seconds:.0f} s; capacity is {capacity:.2f}",
        "rows": [
            row("goodput, of that at capacity", "", [share], target="at least 0.8", reached=share >= 0.8),
            row("TTFT of accepted, most", "s", [flood["ttft"]["max"]], target=f"within {bound:.1f} s",
                reached=flood["ttft"]["max"] <= bound),
            row("refused with 429", "", [flood["statuses"].get("429", 0)], target="and nothing else failed",
                reached=statuses == {"200", "429"} and not flood["refused_without_retry_after"]),
            row("TTFT 10 s later", "s", [slowest], target=f"as before, {alone:.3f} s, at most twice",
                reached=slowest <= 2 * alone + 0.05),
            row("resident memory, grown by", "MB", [(after - before) / 1e6], target="flat: under 16 MB",
                reached=after - before < 16e6),
        ],
        "bound_s": bound,
        "client_share_of_a_core": client,
        "runs": {"at capacity": usual, "overload": flood},
    }  # fmt: skip


def fairness(turns: Turns) -> Found:
    """What a long prompt does to the streams beside it."""
    worst: list[list[float]] = [[], []]
    usual: list[list[float]] = [[], []]
    took: list[list[float]] = [[], []]
    with turns.both(streams=BESIDE + 1, context=LONG_CONTEXT) as servers:
        for number in range(turns.repeat):
            for n, server in enumerate(servers):
                samples, _ = turns.put(server, partial(_beside, seed=30 + number))
                long, *others = turns.all_good(server, samples)
                gaps = [_gaps(sample, long) for sample in others]
                worst[n].append(max(max(during) for _, during in gaps))
                usual[n].append(percentile([gap for before, _ in gaps for gap in before], 0.5))
                took[n].append(long.ttft)
                _say(server, f"largest gap {worst[n][-1] * 1e3:.0f} ms, prompt {long.prompt_tokens} tokens")
    own = statistics.median(worst[0]) * 1e3
    ratio = own / (statistics.median(worst[1]) * 1e3) if worst[1] else None
    thousands = [[1e3 * gap for gap in gaps] for gaps in (*worst, *usual)]
    return {
        "work": f"a prompt of about {LONG_PROMPT:,} tokens beside {BESIDE} streams",
        "rows": [
            row("largest gap in the others", "ms", thousands[0], thousands[1] or None, ratio=ratio,
                target="at most 150 ms", reached=own <= 150),
            row("their median gap before", "ms", thousands[2], thousands[3] or None),
            row("TTFT of the long prompt", "s", took[0], took[1] or None),
        ],
    }  # fmt: skip


def start(turns: Turns) -> Found:
    """From the start of the process until it is ready."""
    seconds: list[list[float]] = [[], []]
    for _ in range(turns.repeat):
        with turns.boli() as server:
            seconds[0].append(server.ready_s)
        if turns.llama_server is not None:
            with turns.llama() as server:
                seconds[1].append(server.ready_s)
    own = statistics.median(seconds[0])
    return {
        "work": "from the start of the process until it is ready, files in memory",
        "rows": [row("ready", "s", seconds[0], seconds[1] or None, target="under 3 s", reached=own < 3)],
    }


TRIALS: dict[str, Callable[[Turns], Found]] = {
    "streams": streams,
    "latency": latency,
    "overhead": overhead,
    "overload": overload,
    "fairness": fairness,
    "start": start,
}


def _throughput(turns: Turns, server: Server, asked: list[Ask]) -> float:
    samples, _ = turns.put(server, lambda at: in_turn(at.place, asked, STREAMS, PATIENCE_S))
    return float(summary(turns.all_good(server, samples))["output_tokens_per_s"])


def _throughput_alone(engine: Engine, asked: list[Ask]) -> float:
    texts, seeds = [each.text for each in asked], [each.seed for each in asked]
    answers = engine.ask("in_turn", texts=texts, seeds=seeds, max_tokens=asked[0].max_tokens, streams=STREAMS)
    return float(answers["tokens"] / answers["seconds"])


def _open_loop(
    turns: Turns, server: Server, rate: float, *, seed: int, seconds: float | None = None
) -> tuple[list[Sample], float]:
    most = turns.requests if seconds is None else MAX_ARRIVALS
    offsets = poisson(rate, seconds or 10 * turns.requests / rate, seed, most)
    if not offsets:
        raise ServerError(f"at {rate:.2f} requests/s nothing comes in {seconds} s")
    asked = questions(len(offsets), prompt=PROMPT, output=OUTPUT, seed=seed)
    return turns.put(server, lambda at: on_time(at.place, asked, offsets, PATIENCE_S))


def _search(turns: Turns, server: Server) -> list[tuple[float, float]]:
    """Rates and their TTFT p99, halving the distance to one second until it is near enough."""
    capacity = turns.capacity(server, seed=2)
    low, high = 0.1 * capacity, 1.2 * capacity
    searched: list[tuple[float, float]] = []
    for number in range(5):
        rate = (low * high) ** 0.5
        seconds = ttft_p99(_open_loop(turns, server, rate, seed=50 + number)[0])
        _say(server, f"at {rate:.2f} requests/s: TTFT p99 {seconds:.2f} s")
        searched.append((rate, seconds))
        if 1 <= seconds < NEAR_S:
            break
        low, high = (low, rate) if seconds >= 1 else (rate, high)
    return searched


async def _later(server: Server, run: Callable[[float], Any]) -> list[Sample]:
    await asyncio.sleep(RECOVERY_S)
    found: list[Sample] = await run(PATIENCE_S)
    return found


async def _beside(server: Server, *, seed: int) -> list[Sample]:
    """Streams, and when they run a long prompt; that comes first in the result.

    The streams are cool, so that they write words: what comes of several tokens, as an emoji does, is no
    text until the last of them, and no piece of it is due before.
    """
    asked = [replace(each, temperature=0.4) for each in questions(BESIDE, prompt=16, output=1200, seed=seed)]
    (long,) = questions(1, prompt=LONG_PROMPT, output=8, seed=seed + 1000)
    others = [asyncio.create_task(ask(server.place, each, time.perf_counter(), PATIENCE_S)) for each in asked]
    await asyncio.sleep(BEFORE_S)
    first = await ask(server.place, long, time.perf_counter(), PATIENCE_S)
    return [first, *await asyncio.gather(*others)]


def _gaps(sample: Sample, long: Sample) -> tuple[list[float], list[float]]:
    """The gaps of a stream before a long prompt came, and until that had its first token."""
    if sample.stamps[-1] < long.stamps[0]:
        raise ServerError("a stream ended before the long prompt was read; give it more tokens")
    pairs = list(zip(sample.stamps, sample.stamps[1:], strict=False))
    before = [later - earlier for earlier, later in pairs if later < long.due]
    during = [later - earlier for earlier, later in pairs if later >= long.due and earlier <= long.stamps[0]]
    if not before or not during:
        raise ServerError("a stream had not begun when the long prompt came")
    return before, during


def _say(server: Server, words: str) -> None:
    print(f"  {server.name}: {words}", file=sys.stderr)
