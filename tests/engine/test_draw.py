"""A draw in float32 says what the one in float64 says, or that it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.engine.batch import Float32
from boli.engine.draw import _MARGIN, Float64, pick, quick_pick, weights_of
from boli.engine.random import uniform
from boli.engine.sampling import Sampler, SamplingParams


def made(seed: int, size: int, spread: float, *, barred: float = 0.0) -> Float32:
    draw = np.random.default_rng(seed)
    logits = (draw.standard_normal(size) * spread).astype(np.float32)
    logits[draw.random(size) < barred] = -np.inf
    logits[draw.integers(size)] = spread  # one that a grammar lets through
    return logits


def shares(logits: Float32, temperature: float) -> Float64:
    cumulated = np.cumsum(weights_of(logits, temperature))
    found: Float64 = cumulated / cumulated[-1]
    return found


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1024, 1025, 3000, 49152]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 4.0, 30.0, 1e4]),
    temperature=st.sampled_from([1e-3, 0.1, 0.8, 1.0, 1.7, 100.0]),
    barred=st.sampled_from([0.0, 0.5, 0.999]),
    number=st.floats(0.0, 1.0 - 2.0**-53),
)
def test_what_it_says_is_what_float64_says(
    seed: int, size: int, spread: float, temperature: float, barred: float, number: float
) -> None:
    logits = made(seed, size, spread, barred=barred)
    token = quick_pick(logits, temperature, number)
    assert token in (None, pick(weights_of(logits, temperature), number))


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.0, 2.0])
def test_it_can_tell_inside_a_token_and_not_at_its_edges(temperature: float) -> None:
    logits = made(7, 49152, 4.0)
    ends = shares(logits, temperature)
    starts = np.concatenate(([0.0], ends[:-1]))
    wide = np.flatnonzero(ends - starts > 4 * _MARGIN)
    assert wide.size > 10
    for token in wide.tolist():
        start, end = float(starts[token]), float(ends[token])
        for part in (0.3, 0.5, 0.7):
            assert quick_pick(logits, temperature, start + part * (end - start)) == token
        assert quick_pick(logits, temperature, end) is None
        if token:  # before the first one there is nothing that it could be mistaken for
            assert quick_pick(logits, temperature, start) is None


@pytest.mark.parametrize("temperature", [0.1, 0.8, 3.0])
@pytest.mark.parametrize("spread", [0.5, 4.0, 20.0])
def test_the_margin_is_wider_than_the_error(spread: float, temperature: float) -> None:
    logits = made(11, 262144, spread)
    rounded = np.exp((logits - logits.max()) * np.float32(1.0 / temperature))
    sums = np.cumsum(np.einsum("ij->i", rounded.reshape(-1, 64)), dtype=np.float64)
    error = np.abs(sums / sums[-1] - shares(logits, temperature)[63::64]).max()
    assert 0.0 < error < _MARGIN / 2


def test_odd_ends_of_a_vocabulary_are_drawn() -> None:
    logits = np.zeros(1030, np.float32)
    logits[1029] = 9.0  # behind the last whole block
    assert quick_pick(logits, 1.0, 0.99) == pick(weights_of(logits, 1.0), 0.99) == 1029


def test_a_sampler_draws_the_same_with_and_without() -> None:
    plain = Sampler(SamplingParams(temperature=0.8, seed=3))
    told = 0
    for position in range(300):
        logits = made(position, 5000, 4.0)
        number = uniform(3, position)
        told += quick_pick(logits, 0.8, number) is not None
        slow = pick(weights_of(logits, 0.8), number)
        assert plain.sample(logits, position).id == plain.distribution(logits).pick(number) == slow
    assert told > 250  # else it is no help
