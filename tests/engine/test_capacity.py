"""How long a context is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from boli.engine.capacity import choose_cache, choose_context, pages_for
from boli.errors import OutOfMemory, UsageError
from engine.toy_runner import toy_config

PAGE: dict[str, int] = {"page_size": 32, "page_bytes": 1000, "max_sequences": 4}


@pytest.mark.parametrize(
    ("positions", "available", "expected"),
    [
        (2048, 10**9, 2048),  # what the model can do
        (100_000, 10**9, 8192),  # at most the default
        (100_000, 4 * 1000 * 40, 28 * 32),  # forty pages fit into a quarter of the memory
        (100_000, 4 * 1000 * 10, 5 * 32),  # half of what there is, where there is little
        (100_000, 4 * 1000 * 11, 5 * 32),
        (100, 4 * 1000 * 10, 100),
        (100_000, 4 * 1000, 32),
    ],
)
def test_the_default_is_what_model_habit_and_memory_allow(
    positions: int, available: int, expected: int
) -> None:
    assert choose_context(toy_config(positions=positions), None, available=available, **PAGE) == expected


def test_no_room_for_a_single_page_is_an_error_with_numbers() -> None:
    with pytest.raises(OutOfMemory, match=r"4\.0 kB are free, and 32 tokens take 1\.0 kB"):
        choose_context(toy_config(), None, available=3999, **PAGE)


@pytest.mark.parametrize("requested", [2, 100, 4096])
def test_what_was_asked_for_is_taken_even_if_memory_is_short(requested: int) -> None:
    """Then it is the ledger that says what is missing."""
    assert choose_context(toy_config(positions=4096), requested, available=10, **PAGE) == requested


@pytest.mark.parametrize("requested", [0, 1, -5, 4097, 2.5, True, "100"])
def test_what_the_model_cannot_do_is_refused(requested: Any) -> None:
    with pytest.raises(UsageError, match="between 2 and 4,096"):
        choose_context(toy_config(positions=4096), requested, available=10**9, **PAGE)


@pytest.mark.parametrize("pages", [2, 3, 10, 11, 40, 100])
def test_what_is_chosen_by_default_fits_into_a_quarter_with_all_its_pages(pages: int) -> None:
    context = choose_context(toy_config(positions=10**6), None, available=4 * 1000 * pages, **PAGE)
    chosen = pages_for(context, page_size=32, max_sequences=4)
    assert pages - 1 <= chosen <= pages


def test_pages_for_one_full_context_and_short_ones_beside_it() -> None:
    assert pages_for(64, page_size=32, max_sequences=1) == 2
    assert pages_for(65, page_size=32, max_sequences=8) == 3 + 3
    assert pages_for(8192, page_size=32, max_sequences=8) == 256 + 7 * 4


@pytest.mark.parametrize(
    ("requested", "cache", "expected"),
    [
        (None, None, (2048, 64 + 12)),  # a full context, and four short ones beside it
        (None, 10_999, (320, 10)),  # what so many pages hold
        (None, 10**6, (2048, 1000)),
        (100, 20_000, (100, 20)),
    ],
)
def test_the_cache_may_be_given_in_bytes(
    requested: int | None, cache: int | None, expected: tuple[int, int]
) -> None:
    config = toy_config(positions=2048)
    assert choose_cache(config, requested, cache, available=10**9, **PAGE) == expected


@pytest.mark.parametrize(("requested", "cache"), [(100, 3999), (None, 999)])
def test_a_cache_that_does_not_hold_the_context_is_refused(requested: int | None, cache: int) -> None:
    with pytest.raises(UsageError, match=r"it takes \d+ pages of 32 tokens"):
        choose_cache(toy_config(), requested, cache, available=10**9, **PAGE)
