"""A row's logits depend on its own sequence and on nothing else, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from boli.cpu.runner import CpuRunner
from cpu.driving import Logits, logits_of, make_runner, step
from tiny_models import TINY, Zoo, prompt, wide

MODELS = {
    "llama F32": (TINY["llama"], "F32", "f32"),
    "llama BF16": (TINY["llama"], "BF16", "bf16"),
    "llama Q4_1": (wide("llama"), "Q4_1", "bf16"),
    "llama Q8_0": (wide("llama"), "Q8_0", "int8"),
    "gemma3 Q8_0": (wide("gemma3"), "Q8_0", "bf16"),
    "gpt2 F16": (TINY["gpt2"], "F16", "bf16"),
}
LENGTH = 70  # more than two pages
LONG = 600  # more than two chunks of attention, and rows enough for parts


def runner_of(name: str, zoo: Zoo, **options: int) -> CpuRunner:
    tiny, fmt, kv_type = MODELS[name]
    return make_runner(zoo.gguf(tiny, fmt), kv_type=kv_type, **options)


@pytest.fixture(scope="module", params=MODELS)
def alone(
    request: pytest.FixtureRequest, zoo: Zoo
) -> Iterator[tuple[CpuRunner, list[list[int]], list[Logits]]]:
    """A runner with two threads, eight texts, and the logits of each one, fed alone and whole."""
    runner = runner_of(request.param, zoo, max_rows=600)
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
        runner = runner_of(name, zoo, threads=threads)
        found.append(logits_of(runner, text))
        found.append(logits_of(runner, text, chunk=3))
        runner.close()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_long_text_is_the_same_in_one_piece_and_in_many(name: str, zoo: Zoo) -> None:
    """Many rows go over all of the cache at once; few rows share it out in chunks, to all threads."""
    length = 250 if name == "gpt2 F16" else LONG  # it knows 256 positions
    text, found = prompt(length), []
    for threads, chunk in ((1, length), (2, 250), (3, 4)):
        runner = runner_of(name, zoo, threads=threads, max_rows=length)
        found.append(logits_of(runner, text[:-8], chunk=chunk)[-1])
        found.append(logits_of(runner, text, chunk=length)[-8:])
        last = range(length - 8, length)
        found.append(np.concatenate([step(runner, [(0, at, text[at : at + 1])]) for at in last]))
        runner.close()
    for first, whole, single in zip(found[3::3], found[4::3], found[5::3], strict=True):
        np.testing.assert_array_equal(first, found[0])
        np.testing.assert_array_equal(whole, found[1])
        np.testing.assert_array_equal(single, found[1])
