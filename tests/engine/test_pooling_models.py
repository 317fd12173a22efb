"""Vectors of real kernels against transformers', and against themselves in other company."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from boli.cpu.runner import CpuRunner
from boli.engine.engine import Engine
from boli.engine.ledger import Ledger
from boli.engine.pooling import Pooler, Pooling
from boli.engine.sampling import SamplingParams
from boli.formats.checkpoint import open_checkpoint
from engine.toy_engine import output
from tiny_models import TINY, Zoo, prompt

CONTEXT = 256
PROMPTS = [prompt(1, 1), prompt(31, 2), prompt(33, 3), prompt(150, 4)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def make(folder: Path, *, max_rows: int = 512, kv_type: str = "f32") -> Engine:
    with open_checkpoint(folder) as checkpoint:
        runner = CpuRunner(
            checkpoint,
            ledger=Ledger(),
            num_pages=32,
            max_sequences=8,
            max_rows=max_rows,
            threads=1,
            context=CONTEXT,
            kv_type=kv_type,
        )
    return Engine(runner, context=CONTEXT)


@functools.lru_cache(maxsize=1)
def model_of(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def expected(folder: Path, tokens: list[int], pooling: Pooling) -> NDArray[np.float32]:
    with torch.no_grad():
        states: NDArray[np.float32] = model_of(folder)(torch.tensor([tokens])).last_hidden_state[0].numpy()
    pooled: NDArray[np.float32] = {"mean": states.mean(0), "last": states[-1], "first": states[0]}[pooling]
    return pooled


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_vectors_are_those_of_transformers(zoo: Zoo, name: str, pooling: Pooling) -> None:
    folder = zoo.folder(TINY[name])
    engine = make(folder)
    try:
        pooler = Pooler(engine)
        vectors = pooler.run([pooler.submit(tokens, pooling) for tokens in PROMPTS])
    finally:
        engine.close()
    for tokens, vector in zip(PROMPTS, vectors, strict=True):
        wanted = expected(folder, tokens, pooling)
        assert vector.shape == wanted.shape
        np.testing.assert_allclose(vector, wanted, rtol=1e-4, atol=2e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("kv_type", ["f32", "bf16", "int8"])
def test_company_chunks_and_answers_change_no_bit(zoo: Zoo, kv_type: str) -> None:
    folder = zoo.folder(TINY["llama"])
    alone = make(folder, kv_type=kv_type)
    crowded = make(folder, kv_type=kv_type, max_rows=23)
    try:
        pooler = Pooler(alone)
        singles = [pooler.run([pooler.submit(tokens)])[0] for tokens in PROMPTS]
        request = alone.submit(PROMPTS[2], SamplingParams(max_tokens=8, ignore_eos=True))
        while alone.step():
            pass
        pooler = Pooler(crowded)
        beside = crowded.submit(PROMPTS[2], SamplingParams(max_tokens=8, ignore_eos=True))
        vectors = pooler.run([pooler.submit(tokens) for tokens in PROMPTS])
        while crowded.step():
            pass
    finally:
        alone.close()
        crowded.close()
    assert [vector.tobytes() for vector in vectors] == [vector.tobytes() for vector in singles]
    assert output(beside) == output(request)
