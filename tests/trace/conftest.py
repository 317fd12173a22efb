from __future__ import annotations

from collections.abc import Iterator

import pytest

from boli.engine.llm import LLM
from tiny_models import Zoo
from traced import tiny_llm


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def llm(zoo: Zoo) -> Iterator[LLM]:
    """A tiny Llama; whatever is done with it, no page may be lost."""
    with tiny_llm(zoo) as model:
        yield model
        pool = model._engine.scheduler.pool
        assert (pool.used, pool.free + pool.cached) == (0, pool.num_pages)
