"""`/v1/embeddings` through the real client of OpenAI: forms, limits, and beside answers."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest

from engine.test_pooling import expected
from engine.toy_runner import ToyRunner
from server.running import PATIENCE, Running, toy_server, until
from text.samples import TEXTS

Floats = npt.NDArray[np.float64]
SOME = [text for text in TEXTS if text]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


def wanted(here: Running, text: str | Sequence[int], pooling: Any = "mean", size: int = 8) -> Floats:
    ids = here.llm.tokenizer.encode(text) if isinstance(text, str) else list(text)
    vector = expected(ids, pooling)[:size].astype(np.float64)
    scaled: Floats = vector / np.linalg.norm(vector)
    return scaled


def test_one_text_and_several(here: Running, client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="toy", input=SOME[0])
    np.testing.assert_allclose(one.data[0].embedding, wanted(here, SOME[0]), rtol=1e-5, atol=1e-6)
    several = client.embeddings.create(model="toy", input=SOME)
    assert [entry.index for entry in several.data] == list(range(len(SOME)))
    for entry, text in zip(several.data, SOME, strict=True):
        np.testing.assert_allclose(entry.embedding, wanted(here, text), rtol=1e-5, atol=1e-6)
    assert several.data[0].embedding == one.data[0].embedding
    total = sum(len(here.llm.tokenizer.encode(text)) for text in SOME)
    assert (several.usage.prompt_tokens, several.usage.total_tokens) == (total, total)
    assert several.model == "toy"


def test_a_receipt_says_what_they_took(here: Running, client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="toy", input=SOME, extra_body={"boli": {"receipt": True}})
    assert reply.model_extra is not None
    (receipt,) = reply.model_extra["boli"]["receipts"]
    assert (receipt["texts"], receipt["prompt_tokens"]) == (len(SOME), reply.usage.prompt_tokens)
    assert 0.0 < receipt["compute_s"] <= receipt["total_s"]
    assert receipt["tokens_per_s"] == pytest.approx(receipt["prompt_tokens"] / receipt["compute_s"])
    plain = client.embeddings.create(model="toy", input=SOME)
    assert [entry.embedding for entry in reply.data] == [entry.embedding for entry in plain.data]
    assert "boli" not in (plain.model_extra or {})


def test_token_ids(here: Running, client: openai.OpenAI) -> None:
    ids = here.llm.tokenizer.encode(SOME[0])
    text = client.embeddings.create(model="toy", input=SOME[0]).data[0].embedding
    assert client.embeddings.create(model="toy", input=ids).data[0].embedding == text
    both = client.embeddings.create(model="toy", input=[ids, [1, 2]])
    assert both.data[0].embedding == text
    np.testing.assert_allclose(both.data[1].embedding, wanted(here, [1, 2]), rtol=1e-5, atol=1e-6)


def test_floats_and_base64_are_the_same_numbers(here: Running) -> None:
    with here.client() as client:
        floats, packed = (
            client.post("/v1/embeddings", json={"input": SOME[0], "encoding_format": form}).json()
            for form in ("float", "base64")
        )
    numbers = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert numbers.tolist() == floats["data"][0]["embedding"]
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-6)


def test_dimensions_cut_and_scale_again(here: Running, client: openai.OpenAI) -> None:
    for size in (1, 3, 8):
        vector = client.embeddings.create(model="toy", input=SOME[0], dimensions=size).data[0].embedding
        assert len(vector) == size
        np.testing.assert_allclose(vector, wanted(here, SOME[0], size=size), rtol=1e-5, atol=1e-6)
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="toy", input="x", dimensions=9)
    assert raised.value.param == "dimensions"


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_pooling(here: Running, client: openai.OpenAI, pooling: str) -> None:
    reply = client.embeddings.create(model="toy", input=SOME[2], extra_body={"pooling": pooling})
    np.testing.assert_allclose(reply.data[0].embedding, wanted(here, SOME[2], pooling), rtol=1e-5, atol=1e-6)
    assert reply.usage.prompt_tokens == len(here.llm.tokenizer.encode(SOME[2]))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 3]}, "input[1]"),
        ({"input": [3, "a"]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [True]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "poolling": "mean"}, "poolling"),
    ],
)
def test_what_is_refused_is_named(here: Running, fields: dict[str, Any], param: str) -> None:
    with here.client() as client:
        reply = client.post("/v1/embeddings", json=fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_a_text_that_cannot_be_computed_is_named(here: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\].*context") as raised:
        client.embeddings.create(model="toy", input=["a", "x" * 512])
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"input\[1\].*vocabulary"):
        client.embeddings.create(model="toy", input=[[1], [260]])
    with pytest.raises(openai.BadRequestError, match="300,000 tokens"):
        client.embeddings.create(model="toy", input=["x" * 500] * 601)
    here.settled()


def test_beside_answers_nobody_is_disturbed(here: Running) -> None:
    """Twelve requests for vectors and twelve for answers at once, all as if alone."""
    texts = SOME[:12]

    async def everybody() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=here.url, timeout=PATIENCE, trust_env=False) as client:
            vectors = [client.post("/v1/embeddings", json={"input": [text] * 3}) for text in texts]
            answers = [client.post("/v1/completions", json=answered(text)) for text in texts]
            replies = await asyncio.gather(*vectors, *answers)
        return [reply.raise_for_status().json() for reply in replies]

    def answered(text: str) -> dict[str, Any]:
        return {"prompt": text, "max_tokens": 30, "temperature": 0, "ignore_eos": True}

    with here.client() as client:
        alone = [client.post("/v1/completions", json=answered(text)).json() for text in texts]
    replies = asyncio.run(everybody())
    for text, reply in zip(texts, replies, strict=False):
        for entry in reply["data"]:
            np.testing.assert_allclose(entry["embedding"], wanted(here, text), rtol=1e-5, atol=1e-6)
    assert [reply["choices"] for reply in replies[12:]] == [reply["choices"] for reply in alone]
    here.settled()


def test_who_goes_away_leaves_no_pages_and_no_work_behind(tmp_path: Path) -> None:
    with toy_server(tmp_path, max_rows=1, num_pages=64) as server:
        with server.client() as client:
            for _ in range(3):
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/embeddings", json={"input": ["x" * 400] * 200}, timeout=0.3)
            server.settled()
            runner = server.llm._engine.runner
            assert isinstance(runner, ToyRunner)
            rows = len(runner.rows)
            assert rows < 3 * 200 * 400
            time.sleep(0.1)
            assert len(runner.rows) == rows
            reply = client.post("/v1/embeddings", json={"input": "a"}).raise_for_status().json()
        np.testing.assert_allclose(reply["data"][0]["embedding"], wanted(server, "a"), rtol=1e-5, atol=1e-6)


def test_too_many_requests_are_told_to_wait(tmp_path: Path) -> None:
    async def several(url: str) -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            body = {"input": ["x" * 200] * 20}
            replies = await asyncio.gather(*(client.post("/v1/embeddings", json=body) for _ in range(6)))
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 429)
        return [reply.status_code for reply in replies]

    with toy_server(tmp_path, max_rows=8, server={"max_queue": 2}) as server:
        codes = asyncio.run(several(server.url))
        assert set(codes) == {200, 429}
        server.settled()


def test_a_short_request_does_not_wait_for_a_long_one(tmp_path: Path) -> None:
    async def both(url: str) -> list[str]:
        order: list[str] = []

        async def ask(name: str, texts: list[str]) -> None:
            (await http.post("/v1/embeddings", json={"input": texts})).raise_for_status()
            order.append(name)

        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as http:
            long = asyncio.create_task(ask("long", ["x" * 60] * 400))
            await asyncio.sleep(0.1)
            await asyncio.gather(long, ask("short", ["y"]))
        return order

    with toy_server(tmp_path, max_rows=16) as server:
        assert asyncio.run(both(server.url)) == ["short", "long"]


def test_a_server_that_is_cut_short_leaves_no_pages_behind(tmp_path: Path) -> None:
    outcomes: list[int] = []

    def ask(server: Running) -> None:
        with server.client() as client:
            reply = client.post("/v1/embeddings", json={"input": ["x" * 400] * 500})
            outcomes.append(reply.status_code)

    with toy_server(tmp_path, max_rows=1, server={"shutdown_timeout": 0.0}) as server:
        asking = threading.Thread(target=ask, args=(server,))
        asking.start()
        until(lambda: server.busy()[2] > 0)
    asking.join(PATIENCE)
    assert outcomes[0] >= 500
