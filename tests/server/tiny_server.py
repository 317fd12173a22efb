"""A server of a tiny random Llama in float32: the real engine and kernels, and transformers beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boli.engine.loading import load
from engine.toy_llm import write_tokenizer
from server.running import Running, running
from tiny_models import TINY, Zoo

CONTEXT = 256


def tiny_folder(folder: Path) -> Path:
    """Writes the model; its vocabulary is bytes, and a few ids that stand for nothing."""
    made = Zoo(folder).folder(TINY["llama"])
    write_tokenizer(made)
    return made


@contextmanager
def tiny_server(folder: Path, **settings: Any) -> Iterator[Running]:
    """Serves it; keys and values are float32 too."""
    with load(folder, context=CONTEXT, kv_cache_type="f32") as llm, running(llm, **settings) as here:
        yield here
