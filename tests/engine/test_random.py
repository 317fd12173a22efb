"""The counter-based generator: published vectors, and that its numbers are uniform and independent."""

from __future__ import annotations

import numpy as np
import pytest

from boli.engine.random import fresh_seed, philox4x32, uniform


# Known answers of the authors' Random123 library (kat_vectors, philox4x32, 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert philox4x32(counter, key) == expected


def test_uniform_uses_53_bits_of_the_first_two_words() -> None:
    high, low, _, _ = philox4x32((7, 0, 0, 0), (0x89ABCDEF, 0x01234567))
    assert uniform(0x0123456789ABCDEF, 7) == (((high << 32) + low) // 2048) / 2**53


def test_numbers_fill_the_interval_evenly_and_neighbours_do_not_correlate() -> None:
    numbers = np.array([uniform(1234, position) for position in range(20_000)])
    counts = np.histogram(numbers, bins=100, range=(0.0, 1.0))[0]
    assert ((counts - 200.0) ** 2 / 200.0).sum() < 99 + 5 * np.sqrt(2 * 99)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / np.sqrt(20_000)
    neighbours = np.array([uniform(1235, position) for position in range(20_000)])
    assert abs(np.corrcoef(numbers, neighbours)[0, 1]) < 5 / np.sqrt(20_000)


def test_all_64_bits_of_the_seed_and_of_the_position_count() -> None:
    draws = {uniform(1 << bit, 0) for bit in range(64)} | {uniform(0, 1 << bit) for bit in range(64)}
    assert len(draws) == 128


def test_fresh_seeds_differ_and_survive_json_numbers() -> None:
    seeds = {fresh_seed() for _ in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**53 and int(float(seed)) == seed for seed in seeds)
