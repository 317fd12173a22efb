"""The client of `benchmarks/serve.py`: what it counts, and that it cannot hide how long one waited."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from server.running import Running, toy_server

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the client, by name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def module(name: str) -> Any:
        return importlib.import_module(f"load.{name}")

    return module


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


def test_tokens_are_counted_from_usage(load: Any, here: Running) -> None:
    client = load("client")
    place = client.Place("127.0.0.1", here.port)
    asked = load("traffic").questions(5, prompt=10, output=12, seed=1)
    samples = asyncio.run(client.together(place, asked, 30.0))
    for sample in samples:
        assert sample.good, sample
        assert sample.output_tokens == 12
        assert sample.prompt_tokens > 10
        assert 1 <= len(sample.stamps) <= 12
        assert sample.due <= sample.stamps[0] <= sample.stamps[-1] <= sample.ended
    told = load("figures").summary(samples)
    assert told["output_tokens"] == 60
    assert told["statuses"] == {"200": 5}
    assert told["ttft"]["p50"] <= told["ttft"]["p99"] <= told["e2e"]["max"]
    again = asyncio.run(client.in_turn(place, asked, 2, 30.0))
    assert len(again) == 5
    assert all(sample.good for sample in again)


def test_what_is_refused_or_broken_is_in_the_sample(load: Any, here: Running) -> None:
    client = load("client")
    place = client.Place("127.0.0.1", here.port)
    long = client.Ask("too long " * 500, 5, 1)
    (sample,) = asyncio.run(client.together(place, [long], 30.0))
    assert (sample.status, sample.good) == (400, False)
    assert "context" in sample.error
    (nobody,) = asyncio.run(client.together(client.Place("127.0.0.1", 1), [long], 5.0))
    assert nobody.status == 0
    assert nobody.error


async def serve_one_at_a_time(seconds: float) -> asyncio.Server:
    """A server that takes so long for each request, and takes them one after the other."""
    turn = asyncio.Lock()
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    delta = json.dumps({"choices": [{"delta": {"content": "x"}}]})
    body = f"data: {delta}\n\ndata: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with turn:
            await asyncio.sleep(seconds)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for cut in range(0, len(body), 7):  # chunks need not be frames
            part = body[cut : cut + 7].encode()
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def test_waiting_cannot_be_omitted(load: Any) -> None:
    """Twenty requests at once for a server that does one at a time: the last waited for all the others."""
    client = load("client")

    async def measure() -> list[Any]:
        async with await serve_one_at_a_time(0.02) as server:
            place = client.Place("127.0.0.1", server.sockets[0].getsockname()[1])
            offsets = [0.001 * number for number in range(20)]
            return list(await client.on_time(place, [client.Ask("x", 1, 0)] * 20, offsets, 30.0))

    samples = asyncio.run(measure())
    assert all(sample.good for sample in samples)
    waits = sorted(sample.ttft for sample in samples)
    assert waits[-1] > 19 * 0.02 - 0.02
    # Client and server share a loop, so a machine that stands still adds to all.
    assert waits[-1] - waits[0] > 15 * 0.02


def test_arrivals_are_random_bounded_and_the_same_for_everybody(load: Any) -> None:
    poisson = load("traffic").poisson
    times = poisson(10.0, 100.0, 3, 10_000)
    assert times == poisson(10.0, 100.0, 3, 10_000)
    assert times == sorted(times)
    assert 850 < len(times) < 1150
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.15)  # as of a Poisson process, not of a clock
    assert len(poisson(10.0, 100.0, 3, 50)) == 50


def test_percentiles_are_values_that_occurred(load: Any) -> None:
    percentile = load("figures").percentile
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert percentile([7.0], 0.99) == 7.0
    assert load("figures").p50_90_99([]) == {"p50": None, "p90": None, "p99": None, "max": None, "n": 0}


def test_the_page_has_what_was_measured_and_losses_too(load: Any, tmp_path: Path) -> None:
    spread = {"median": 93.25, "min": 90.0, "max": 1234.0}
    rows = [
        {"what": "output", "unit": "tok/s", "boli": spread, "peer": spread, "ratio": 3.5,
         "target": "at least 4 ×", "reached": False},
        {"what": "ready", "unit": "s", "boli": {"median": 1.0, "min": 1.0, "max": 1.0}, "peer": None,
         "target": "-", "reached": None},
    ]  # fmt: skip
    document = {
        "machine": {"cpu": "C", "cores": 2, "memory_bytes": 24e9, "threads": 2, "model": "m.gguf"},
        "versions": {"boli": "0.1.0"},
        "trials": {
            "streams": {"work": "eight", "rows": rows, "date": "D"},
            "start": {"work": "start", "rows": [], "error": "no | program", "date": "D"},
        },
    }
    report = load("report")
    report.write(document, tmp_path / "S.md", ["start", "streams", "latency"])
    lines = [line for line in (tmp_path / "S.md").read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    for cell in ("93.2 (90 – 1,234) tok/s", "3.50 ×", "at least 4 ×", "**no**", "1 s", "not measured"):
        assert any(cell in line for line in lines), cell
    assert "not measured: no | program" in report.lines("start", document["trials"]["start"])[0]  # type: ignore[index]
