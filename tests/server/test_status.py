"""Models, health, versions, metrics and statistics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from boli import __version__
from boli.server.metrics import Histogram
from server.running import Running, toy_server

SECRET = "a-very-secret-prompt"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"api_key": ("one", "two"), "served_model_names": ("glass", "window")}
    with toy_server(tmp_path_factory.mktemp("status"), server=settings) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client(headers={"Authorization": "Bearer one"}) as each:
        yield each


def numbers(client: httpx.Client) -> dict[str, float]:
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(reply.text)
    return {
        sample.name + sample.labels.get("le", "") + sample.labels.get("finished_reason", ""): sample.value
        for family in families
        for sample in family.samples
    }


def test_models(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["glass", "window"]
    assert client.get("/v1/models/window").json() == listed["data"][1]
    missing = client.get("/v1/models/door")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_health_and_version(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    assert client.get("/version").json()["version"] == __version__


def test_metrics_count_what_happens(client: httpx.Client) -> None:
    before = numbers(client)
    wish: dict[str, Any] = {"prompt": SECRET * 3, "max_tokens": 9, "ignore_eos": True, "user": SECRET}
    usage = client.post("/v1/completions", json=wish).json()["usage"]
    client.post("/v1/completions", json=wish)
    after = numbers(client)
    change = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert change["boli:generation_tokens_total"] == 18
    assert change["boli:prompt_tokens_total"] == 2 * usage["prompt_tokens"]
    assert 0 < change["boli:prefix_cache_hits_total"] < usage["prompt_tokens"]
    assert change["boli:request_success_totallength"] == 2
    assert change["boli:time_to_first_token_seconds_count"] == 2
    assert change["boli:inter_token_latency_seconds_count"] == 16
    assert change["boli:e2e_request_latency_seconds_count"] == 2
    assert change["boli:request_generation_tokens_sum"] == 18
    assert after["boli:num_requests_running"] == after["boli:num_requests_waiting"] == 0
    assert after["boli:kv_cache_usage_perc"] == 0
    assert after["boli:kv_pages_cached"] > 0
    assert after["process_resident_memory_bytes"] > 0
    assert all(change[name] >= 0 for name in change if name.endswith(("_total", "_count")))
    assert SECRET not in client.get("/metrics").text


def test_statistics_show_a_caller_its_own_requests(client: httpx.Client, here: Running) -> None:
    client.post("/v1/completions", json={"prompt": SECRET, "max_tokens": 4, "ignore_eos": True})
    mine = client.get("/stats").json()
    with here.client(headers={"X-API-Key": "two"}) as other:
        theirs = other.get("/stats").json()
    assert mine["recent"][0]["generated_tokens"] == 4
    assert theirs["recent"] == []
    assert theirs["generated_tokens"] == mine["generated_tokens"]
    assert mine["pages"]["used"] == 0
    assert mine["pages"]["free"] + mine["pages"]["cached"] == mine["pages"]["total"]
    assert SECRET not in str(mine)


def test_a_histogram_counts_each_value_once() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    histogram.observe(2.0, times=3)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 6), ("+Inf", 7)]
    assert histogram.sum == pytest.approx(11.5)


def test_the_server_describes_itself(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["ChatRequest"]
    assert {"messages", "temperature", "top_k", "boli"} <= set(schema["properties"])
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert client.get("/openapi.json").json() == document
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
