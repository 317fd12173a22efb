"""The search for the largest logit against NumPy. In whole steps `driving.step` holds it against the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from boli.cpu import compiler
from boli.formats.checkpoint import open_checkpoint
from cpu.driving import make_runner, step
from cpu.watching import batch_of
from tiny_models import TINY, Zoo, prompt

Row = NDArray[np.float32]
ROWS: dict[str, Callable[[np.random.Generator, int], NDArray[Any]]] = {
    "normal": lambda rng, size: rng.normal(0, 3, size),
    "ties": lambda rng, size: rng.integers(-2, 3, size),
    "all alike": lambda rng, size: np.full(size, -1.5),
    "zeros of both signs": lambda rng, size: rng.choice([0.0, -0.0], size),
    "below zero, where padding is": lambda rng, size: rng.normal(-900, 3, size),
    "as small as they get": lambda rng, size: rng.integers(-3, 3, size) * 1e-45,
    "as large as they get": lambda rng, size: rng.choice([-3.4e38, 3.4e38], size),
}


@pytest.fixture(scope="module")
def search() -> Callable[[Row, int], int]:
    """Searches a row in two parts, as two threads do, the second one first."""

    def source() -> Callable[..., Any]:
        from boli.cpu.largest import NOTHING, larger, largest_of  # imports Numba

        def run(row, middle, end):  # type: ignore[no-untyped-def]
            found = larger(row, NOTHING, largest_of(row, middle, end))
            return larger(row, found, largest_of(row, 0, middle) if middle > 0 else NOTHING)

        return run

    [function] = compiler.load([compiler.Unit("search", 3, source)])

    def call(row: Row, middle: int) -> int:
        # Behind the end there is room for a vector, and what is there would be the largest.
        padded = np.concatenate([row, np.full(32, 1e38, np.float32)])
        return function(padded.ctypes.data, middle, len(row))

    return call


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 32, 300, 1024])
def test_it_is_argmax(search: Callable[[Row, int], int], kind: str, size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        row = np.asarray(ROWS[kind](rng, size), np.float32)
        for middle in {0, size // 32 * 16, (size - 1) // 16 * 16}:
            assert search(row, middle) == row.argmax(), middle


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen_wherever_it_is(search: Callable[[Row, int], int], bad: float) -> None:
    for place in range(100):
        row = np.linspace(-4, 4, 100, dtype=np.float32)
        row[place] = bad
        assert [search(row, middle) for middle in (0, 48, 96)] == [-1, -1, -1]


def test_a_model_that_overflows_is_noticed(zoo: Zoo, tmp_path: Path) -> None:
    """A final norm of 3e38: finite, so the model loads; its logits are not."""
    source = zoo.gguf(TINY["llama"], "F32")
    with open_checkpoint(source) as checkpoint:
        (norm,) = (each for each in checkpoint.tensors if each.name == "output_norm.weight")
    content = bytearray(source.read_bytes())
    weights = np.full(norm.shape, 3e38, np.float32).tobytes()
    content[norm.offset : norm.offset + len(weights)] = weights
    path = tmp_path / "overflows.gguf"
    path.write_bytes(content)
    runner = make_runner(path)
    step(runner, [(0, 0, prompt(7))])
    assert runner.likeliest.tolist() == [-1] * 7
    runner.close()


def test_a_watched_step_of_more_rows_writes_nothing_of_the_kind(zoo: Zoo) -> None:
    """It has no head, or logits of its own: the room for one row's findings is not its to use."""
    runner = make_runner(zoo.folder(TINY["llama"]))
    few, many = batch_of([(0, 0, prompt(3))], outputs=[2]), batch_of([(0, 0, prompt(40))])
    runner.forward(few)
    room = np.full(1000, 7, np.int64)
    runner._largest = room[: len(runner._largest)]
    runner.forward(few)  # from now on its place is in the table
    found = room.copy()
    runner.hidden(many)
    runner.observe(many)
    runner.head_logits(np.zeros((40, runner.blueprint.config.hidden_size), np.float32))
    np.testing.assert_array_equal(room, found)
    runner.close()
