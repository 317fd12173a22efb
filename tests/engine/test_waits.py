"""Why requests wait, as the scheduler writes it down."""

from __future__ import annotations

import time

import pytest

from boli.engine.sampling import SamplingParams
from boli.engine.waits import Waits
from engine.toy_engine import GREEDY, make_engine, run_all, some_prompt

LONG = SamplingParams(max_tokens=40)


def test_nobody_who_runs_at_once_has_waited() -> None:
    engine = make_engine()
    request = engine.submit(some_prompt(5, 1), GREEDY)
    run_all(engine)
    assert set(request.waits.seconds) == {"queue"}  # until the step in which it began
    assert request.waits.behind == 0


def test_a_request_waits_for_a_place() -> None:
    engine = make_engine(max_sequences=2)
    for seed in range(2):
        engine.submit(some_prompt(5, seed), LONG)
    third, fourth = (engine.submit(some_prompt(5, seed), LONG) for seed in (3, 4))
    run_all(engine)
    assert third.waits.seconds["places"] > 0
    assert (third.waits.behind, fourth.waits.behind) == (2, 3)
    assert {*third.waits.seconds, *fourth.waits.seconds} == {"queue", "places"}
    assert "all places taken for" in str(third.waits) or third.waits.seconds["places"] < 0.001


def test_a_request_waits_for_pages() -> None:
    engine = make_engine(num_pages=16, context=64)  # of four positions
    engine.submit(some_prompt(40, 1), LONG)
    engine.step()
    second = engine.submit(some_prompt(40, 2), LONG)
    run_all(engine)
    assert second.waits.seconds["pages"] > 0
    # 41 positions are 11 pages; the first holds 11 of 16 when the second comes, and more later.
    assert second.waits.pages_short >= 6


def test_a_request_waits_for_rows() -> None:
    engine = make_engine(max_sequences=4, max_rows=8, prefill_budget=8, num_pages=64)
    engine.submit(some_prompt(30, 1), LONG)
    second = engine.submit(some_prompt(30, 2), LONG)
    run_all(engine)
    assert second.waits.seconds["rows"] > 0


def test_one_that_gave_its_pages_back_waits_for_pages() -> None:
    engine = make_engine(num_pages=16, context=64)
    first = engine.submit(some_prompt(20, 1), LONG)
    second = engine.submit(some_prompt(20, 2), LONG)
    run_all(engine)
    assert first.preemptions + second.preemptions > 0
    assert second.waits.seconds["pages"] > 0


def test_one_that_is_aborted_stops_waiting() -> None:
    engine = make_engine(max_sequences=1)
    engine.submit(some_prompt(5, 1), LONG)
    second = engine.submit(some_prompt(5, 2), LONG)
    engine.step()
    engine.abort(second)
    waited = second.waits.total
    time.sleep(0.01)
    run_all(engine)
    assert second.waits.total == waited > 0


def test_waiting_in_words() -> None:
    waits = Waits(behind=3, pages_short=40)
    waits.seconds |= {"queue": 0.2, "places": 0.0001, "pages": 0.8, "rows": 0.01}
    words = "queued behind 3 for 0.200 s, 40 pages short for 0.800 s, other prompts first for 0.010 s"
    assert str(waits) == words
    assert waits.total == pytest.approx(1.0101)
    assert str(Waits()) == "did not wait"
