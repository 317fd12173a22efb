"""How many rows of a prompt go beside answers follows from what rows took."""

from __future__ import annotations

import pytest

from boli.engine.pace import LEAST, SEEN, STEP, Pace


def told(pace: Pace, row_seconds: float, steps: int = SEEN) -> int:
    for _ in range(steps):
        pace.observe(pace.rows, pace.rows * row_seconds)
    return pace.rows


@pytest.mark.parametrize(
    ("row_seconds", "rows"), [(1e-6, 64), (0.5e-3, 64), (1e-3, 48), (1.7e-3, 24), (3e-3, LEAST), (1.0, LEAST)]
)
def test_a_step_takes_no_longer_than_it_may(row_seconds: float, rows: int) -> None:
    assert told(Pace(64, 0.05), row_seconds) == rows
    assert rows % STEP == 0


def test_it_follows_a_prompt_that_gets_dearer_and_comes_back() -> None:
    pace = Pace(64, 0.05)
    seen = [told(pace, row_seconds) for row_seconds in (0.5e-3, 1e-3, 1.7e-3, 0.5e-3)]
    assert seen == [64, 48, 24, 64]


def test_a_hiccup_changes_nothing() -> None:
    pace = Pace(64, 0.05)
    told(pace, 1e-3)
    pace.observe(48, 3.0)
    assert pace.rows == 48


def test_until_it_knows_it_is_careful_and_small_steps_teach_nothing() -> None:
    pace = Pace(64)
    assert pace.rows == LEAST
    pace.observe(4, 1e-9)
    assert pace.rows == LEAST
    assert told(Pace(3), 1e-9) == 3
    assert told(Pace(3), 10.0) == 3
