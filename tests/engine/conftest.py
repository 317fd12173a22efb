"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from boli.engine.llm import LLM
from engine.toy_llm import toy_llm


@pytest.fixture
def llm(tmp_path: Path) -> Iterator[LLM]:
    """A toy model; whatever is done with it, no page may be lost."""
    with toy_llm(tmp_path) as model:
        yield model
        pool = model._engine.scheduler.pool
        assert (pool.used, pool.free + pool.cached) == (0, pool.num_pages)
