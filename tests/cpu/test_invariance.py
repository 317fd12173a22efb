"""A row's logits depend on its own sequence and on nothing else, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from boli.cpu.runner import CpuRunner
from cpu.driving import Logits, logits_of, make_runner, step
from tiny_models import TINY, Zoo, prompt, wide

MODELS = {
    "llama F32": (TINY["llama"], "F32"),
    "llama Q4_1": (wide("llama"), "Q4_1"),
    "llama Q8_0": (wide("llama"), "Q8_0"),
    "gemma3 Q8_0": (wide("gemma3"), "Q8_0"),
    "gpt2 F16": (TINY["gpt2"], "F16"),
}
LENGTH = 70  # more than two pages


@pytest.fixture(scope="module", params=MODELS)
def alone(
    request: pytest.FixtureRequest, zoo: Zoo
) -> Iterator[tuple[CpuRunner, list[list[int]], list[Logits]]]:
    """A runner with two threads, eight texts, and the logits of each one, fed alone and whole."""
    runner = make_runner(zoo.gguf(*MODELS[request.param]), max_rows=600)
    texts = [prompt(LENGTH - 3 * n, n) for n in range(8)]
    yield runner, texts, [logits_of(runner, text) for text in texts]
    runner.close()


@pytest.mark.parametrize("count", [2, 3, 7, 8])
def test_neighbours_do_not_matter(alone: tuple[CpuRunner, list[list[int]], list[Logits]], count: int) -> None:
    runner, texts, expected = alone
    together = step(runner, [(n, 0, texts[n]) for n in range(count)])
    np.testing.assert_array_equal(together, np.concatenate(expected[:count]))


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_chunks_do_not_matter(alone: tuple[CpuRunner, list[list[int]], list[Logits]], chunk: int) -> None:
    runner, texts, expected = alone
    np.testing.assert_array_equal(logits_of(runner, texts[0], chunk=chunk), expected[0])


def test_decoding_beside_a_prefill_does_not_matter(
    alone: tuple[CpuRunner, list[list[int]], list[Logits]],
) -> None:
    runner, texts, expected = alone
    logits_of(runner, texts[1][:-1], sequence=1)
    mixed = step(runner, [(0, 0, texts[0]), (1, len(texts[1]) - 1, texts[1][-1:])])
    np.testing.assert_array_equal(mixed[-1], expected[1][-1])


@pytest.mark.parametrize("name", MODELS)
def test_threads_do_not_matter(name: str, zoo: Zoo) -> None:
    text, found = prompt(LENGTH), []
    for threads in (1, 2, 3):
        runner = make_runner(zoo.gguf(*MODELS[name]), threads=threads)
        found.append(logits_of(runner, text))
        found.append(logits_of(runner, text, chunk=3))
        runner.close()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
