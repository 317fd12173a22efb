"""`boli.bench.run`, on a tiny model: what it says must add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boli import bench
from boli.bench import Result
from boli.errors import ModelNotFound, PromptError, UsageError
from engine.toy_llm import write_tokenizer
from tiny_models import TINY, save_gguf, save_safetensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_safetensors(TINY["llama"], tmp_path_factory.mktemp("llama"))
    write_tokenizer(path)
    return path


class Heard:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def start(self, label: str, total_bytes: int | None) -> None:
        self.notices.append(label)

    def advance(self, bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def notice(self, text: str) -> None:
        self.notices.append(text)


HEARD = Heard()


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return bench.run(
        str(folder), prompt_tokens=30, new_tokens=6, batch=3, depth=20, repeat=2, threads=2, quality=True,
        progress=HEARD,
    )  # fmt: skip


@pytest.fixture(scope="module")
def document(result: Result) -> dict[str, Any]:
    text = json.dumps(result.document(), allow_nan=False)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_the_document_has_its_shape(document: dict[str, Any]) -> None:
    spread = {"median", "min", "max"}
    assert {"model", "format", "threads", "limits", "prefill", "decode", "quality"} <= set(document)
    assert {"read_bytes_per_s", "int8_ops_per_s"} <= set(document["limits"])
    assert set(document["limits"]["spread"]["read_bytes_per_s"]) == spread
    assert set(document["prefill"]["tokens_per_s"]) == set(document["decode"]["tokens_per_s"]) == spread
    assert document["format"] == "F32"
    assert document["threads"] == 2
    assert document["settings"] == {
        "prompt_tokens": 30, "new_tokens": 6, "batch": 3, "depth": 20, "repeat": 2,
        "weights": "auto", "kv_cache_type": "bf16",
    }  # fmt: skip


def test_spreads_are_in_order(document: dict[str, Any]) -> None:
    def spreads(part: object) -> list[dict[str, float]]:
        if not isinstance(part, dict):
            return []
        if set(part) == {"median", "min", "max"}:
            return [part]
        return [found for value in part.values() for found in spreads(value)]

    found = spreads(document)
    assert len(found) >= 9
    assert all(0 < spread["min"] <= spread["median"] <= spread["max"] for spread in found)


@pytest.mark.parametrize("part", ["prefill", "decode"])
def test_shares_follow_from_rates_and_limits(document: dict[str, Any], part: str) -> None:
    limits, rate = document["limits"], document[part]
    speed = rate["tokens_per_s"]["median"]
    bandwidth = speed * rate["bytes_per_token"] / limits["read_bytes_per_s"]
    assert rate["share_of_bandwidth"] == pytest.approx(bandwidth)
    # All of this model's weights are float32.
    peak = speed * rate["operations_per_token"] / limits["f32_ops_per_s"]
    assert rate["share_of_peak"] == pytest.approx(peak)
    assert rate["binds"] == ("memory" if bandwidth >= peak else "arithmetic")


def test_bytes_are_weights_and_cache(document: dict[str, Any], result: Result) -> None:
    decode = document["decode"]
    step = decode["bytes_per_token"] * 3
    weights = sum(size for name, size in document["ledger"].items() if name.startswith("weights"))
    embedding = 4 * 300 * 96
    assert decode["weight_bytes"] == weights - embedding
    positions = 3 * (sum(range(21, 27)) / 6)  # of context, on average over six steps
    cache = document["ledger"]["kv_cache"] / (3 * 256)  # 3 sequences of 256 positions, for the text
    assert step - decode["weight_bytes"] == pytest.approx(positions * cache)
    assert decode["operations_per_token"] == 2 * (result.parameters - 300 * 96 - 5 * 96)


def test_a_float_model_is_as_good_as_itself(document: dict[str, Any]) -> None:
    quality = document["quality"]
    assert quality["positions"] == 256
    assert 0 <= quality["mean_kl"] < 1e-3
    assert quality["mean_kl"] <= quality["max_kl"]
    assert quality["same_best"] > 0.97


def test_fewer_bits_are_fewer_bytes_and_worse_answers(folder: Path, result: Result) -> None:
    rounded = bench.run(
        str(folder), prompt_tokens=4, new_tokens=2, depth=50, repeat=1, threads=1, weights="int8",
        kv_cache_type="int8", quality=True,
    )  # fmt: skip
    assert rounded.format.startswith("Q8_0")
    assert rounded.weights.startswith("int8")
    assert rounded.weight_bytes < 0.6 * result.weight_bytes
    # Of cache a position: 51 and 52 of them here, 21 to 26 for each of three sequences there.
    cache = (rounded.decode.bytes_per_token - rounded.weight_bytes) / 51.5
    assert 0 < cache < 0.8 * (3 * result.decode.bytes_per_token - result.weight_bytes) / (3 * 23.5)
    assert rounded.quality is not None and result.quality is not None
    assert rounded.quality.mean_kl > result.quality.mean_kl


def test_progress_is_told(result: Result) -> None:
    assert result.warnings  # at least that the weights fit into the cache
    for words in (
        "measuring the machine",
        "filling the context",
        "run 1 of 2",
        "run 2 of 2",
        "256 positions",
    ):
        assert any(words in notice for notice in HEARD.notices)


def test_a_model_without_a_tokenizer_is_measured_and_that_is_said(tmp_path: Path) -> None:
    path = save_gguf(TINY["gemma3"], tmp_path / "tiny.gguf", "Q8_0")
    result = bench.run(str(path), prompt_tokens=1, new_tokens=1, repeat=1, threads=1)
    assert result.document()["tokenization"] is None
    assert "quality" not in result.document()
    assert any("tokenization was not measured" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_tokens": 0}, {"new_tokens": -1}, {"batch": 0}, {"batch": 1000}, {"depth": -1}, {"repeat": 0},
        {"threads": 0}, {"threads": 10_000}, {"repeat": True}, {"depth": 1.5}, {"weights": "int3"},
        {"kv_cache_type": "f64"},
    ],
    ids=str,
)  # fmt: skip
def test_senseless_settings_are_refused_before_a_model_is_looked_for(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=name.replace("_", "-")):
        bench.run("no-such-model", **wrong)


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="300 positions are needed"):
        bench.run(str(folder), depth=250, new_tokens=50, prompt_tokens=1)
    with pytest.raises(PromptError):
        bench.run(str(folder), quality=True, text=" \n")
    with pytest.raises(ModelNotFound):
        bench.run("./no-such-model")


@pytest.mark.model
def test_a_real_model_is_near_to_itself_in_float32() -> None:
    result = bench.run("smollm2", prompt_tokens=32, new_tokens=4, repeat=1, quality=True)
    assert result.format == "Q4_1 + Q8_0"
    assert 90e6 < result.weight_bytes < 100e6  # of a file of 98 MB
    assert result.apart.tokenization is not None
    assert result.quality is not None
    assert 1e-4 < result.quality.mean_kl < 0.01
    assert result.quality.same_best > 0.9
