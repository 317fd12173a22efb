"""What runs in a step: budgets, order, and who gives way."""

from __future__ import annotations

import numpy as np
import pytest

from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from boli.engine.scheduler import Scheduler, Work, batch_of


def make_scheduler(
    *,
    num_pages: int = 32,
    context: int = 64,
    max_rows: int = 16,
    max_sequences: int = 4,
    chunk: int | None = None,
) -> Scheduler:
    return Scheduler(
        num_pages=num_pages,
        page_size=4,
        context=context,
        max_rows=max_rows,
        max_sequences=max_sequences,
        chunk=chunk,
    )


def add(scheduler: Scheduler, length: int, limit: int = 64) -> Request:
    request = Request(list(range(length)), SamplingParams(), limit=limit, table=scheduler.new_table())
    scheduler.add(request)
    return request


def advance(works: list[Work]) -> None:
    """What the engine does after a step, with token 0 for every answer."""
    for work in works:
        due = work.completes
        work.request.computed += work.count
        if due:
            work.request.append(Sampled(0))


def shape(works: list[Work], requests: list[Request]) -> list[tuple[int, int]]:
    return [(requests.index(work.request), work.count) for work in works]


def test_nothing_to_do() -> None:
    assert make_scheduler().schedule() == []


def test_prompts_and_answers_share_the_rows_of_a_step() -> None:
    scheduler = make_scheduler()
    requests = [add(scheduler, 5), add(scheduler, 7), add(scheduler, 30), add(scheduler, 2)]
    plans = []
    for _ in range(4):
        works = scheduler.schedule()
        plans.append(shape(works, requests))
        assert sum(work.count for work in works) <= 16
        advance(works)
    assert plans == [
        [(0, 5), (1, 7), (2, 4)],  # whoever is admitted gets what rows are left
        [(0, 1), (1, 1), (2, 14)],
        [(0, 1), (1, 1), (2, 12), (3, 2)],
        [(0, 1), (1, 1), (2, 1), (3, 1)],
    ]


def test_an_old_long_prompt_holds_up_no_answer() -> None:
    scheduler = make_scheduler(max_rows=4, max_sequences=3)
    requests = [add(scheduler, 2), add(scheduler, 50), add(scheduler, 40)]
    plans = []
    for _ in range(3):
        works = scheduler.schedule()
        plans.append(shape(works, requests))
        advance(works)
    assert plans == [[(0, 2), (1, 2)], [(0, 1), (1, 3)], [(0, 1), (1, 3)]]
    scheduler.finish(requests[0], "stop")
    for _ in range(40):
        works = scheduler.schedule()
        assert works[0].request is requests[1]
        advance(works)
        if requests[2].state == "running":
            break
    works = scheduler.schedule()
    assert {work.request for work in works} == set(requests[1:])


@pytest.mark.parametrize(("chunk", "counts"), [(1, [1] * 9), (3, [3, 3, 3]), (16, [9]), (None, [9])])
def test_prompts_are_cut_into_chunks(chunk: int | None, counts: list[int]) -> None:
    scheduler = make_scheduler(chunk=chunk)
    request = add(scheduler, 9)
    seen = []
    while not request.output:
        works = scheduler.schedule()
        seen.append(works[0].count)
        assert works[0].completes == (sum(seen) == 9)
        advance(works)
    assert seen == counts


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    scheduler = make_scheduler(num_pages=6, context=24)
    oldest, middle, youngest, waiting = (add(scheduler, length) for length in (7, 6, 5, 7))
    advance(scheduler.schedule())
    assert [request.state for request in (oldest, middle, youngest, waiting)] == ["running"] * 3 + ["waiting"]
    for _ in range(2):
        advance(scheduler.schedule())
    assert [request.state for request in (oldest, middle, youngest, waiting)] == ["running"] * 2 + [
        "waiting"
    ] * 2
    assert list(scheduler.waiting) == [youngest, waiting]
    assert (youngest.computed, len(youngest.table), scheduler.preemptions) == (0, 0, 1)
    answered = len(youngest.output)
    scheduler.finish(oldest, "stop")
    works = scheduler.schedule()
    assert [work.request for work in works] == [middle, youngest]
    assert works[1].count == 5 + answered
    assert works[1].completes


def test_a_lone_request_may_fill_the_whole_context() -> None:
    scheduler = make_scheduler(num_pages=6, context=24)
    first, second = add(scheduler, 20, limit=24), add(scheduler, 20, limit=24)
    for request in (first, second):
        for _ in range(100):
            if len(request.tokens) == 24:
                break
            advance(scheduler.schedule())
        assert len(request.tokens) == 24
        scheduler.finish(request, "length")
    assert (scheduler.pool.free, scheduler.preemptions) == (6, 0)


def test_a_big_request_at_the_head_is_not_overtaken() -> None:
    scheduler = make_scheduler(num_pages=6, context=24, max_rows=32)
    running = add(scheduler, 10)
    scheduler.schedule()
    big, small = add(scheduler, 16), add(scheduler, 1)
    for _ in range(3):
        advance(scheduler.schedule())
    assert [request.state for request in (running, big, small)] == ["running", "waiting", "waiting"]
    scheduler.finish(running, "stop")
    scheduler.schedule()
    assert [request.state for request in (big, small)] == ["running", "running"]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not hold a context"):
        make_scheduler(num_pages=3, context=13)
    with pytest.raises(ValueError, match="do not share"):
        make_scheduler(max_rows=3, max_sequences=4)


def test_the_batch_of_a_step() -> None:
    scheduler = make_scheduler(chunk=3)
    first, second = add(scheduler, 5), add(scheduler, 2)
    advance(scheduler.schedule())
    works = scheduler.schedule()
    batch = batch_of(works)
    assert batch.token_ids.tolist() == [3, 4, 0]
    assert batch.positions.tolist() == [3, 4, 2]
    assert batch.sequence_of_row.tolist() == [0, 0, 1]
    assert batch.logits_rows.tolist() == [1, 2]
    assert batch.page_tables.shape == (2, 16)
    for row, request in enumerate((first, second)):
        held = len(request.table)
        assert held >= 1
        assert batch.page_tables[row, :held].tolist() == request.table.entries[:held].tolist()
    for array in (
        batch.token_ids,
        batch.positions,
        batch.sequence_of_row,
        batch.page_tables,
        batch.logits_rows,
    ):
        assert array.dtype == np.int32
