"""What runs in a step: budgets, order, and who gives way."""

from __future__ import annotations

from collections.abc import Sequence

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
    prefill_budget: int = 16,
) -> Scheduler:
    return Scheduler(
        num_pages=num_pages,
        page_size=4,
        context=context,
        max_rows=max_rows,
        max_sequences=max_sequences,
        prefill_budget=prefill_budget,
    )


def add(scheduler: Scheduler, length: int, *, limit: int = 64, tokens: Sequence[int] = ()) -> Request:
    """A request with these tokens, or so many that no other one has."""
    number = len(scheduler.waiting) + len(scheduler.running)
    prompt = tokens or range(100 * number, 100 * number + length)
    request = Request(prompt, SamplingParams(), limit=limit, table=scheduler.new_table())
    scheduler.add(request)
    return request


def advance(scheduler: Scheduler, works: list[Work]) -> None:
    """What the engine does after a step, with token 0 for every answer."""
    for work in works:
        due = work.completes
        work.request.computed += work.count
        if due:
            work.request.append(Sampled(0))
        scheduler.share(work.request)


def step(scheduler: Scheduler) -> list[Work]:
    works = scheduler.schedule()
    advance(scheduler, works)
    return works


def shape(works: list[Work], requests: list[Request]) -> list[tuple[int, int]]:
    return [(requests.index(work.request), work.count) for work in works]


def test_nothing_to_do() -> None:
    assert make_scheduler().schedule() == []


def test_prompts_and_answers_share_the_rows_of_a_step() -> None:
    scheduler = make_scheduler()
    requests = [add(scheduler, 5), add(scheduler, 7), add(scheduler, 30), add(scheduler, 2)]
    plans = [shape(step(scheduler), requests) for _ in range(4)]
    assert plans == [
        [(0, 5), (1, 7), (2, 4)],  # whoever is admitted gets what rows are left
        [(0, 1), (1, 1), (2, 14)],
        [(0, 1), (1, 1), (2, 12), (3, 2)],
        [(0, 1), (1, 1), (2, 1), (3, 1)],
    ]


def test_beside_answers_prompts_share_a_budget_first_come_first_served() -> None:
    scheduler = make_scheduler(num_pages=64, max_rows=32, prefill_budget=6)
    requests = [add(scheduler, 40)]
    assert shape(step(scheduler), requests) == [(0, 32)], "with nobody to stall it takes all"
    requests += [add(scheduler, 20), add(scheduler, 9), add(scheduler, 3)]
    plans = [shape(step(scheduler), requests) for _ in range(8)]
    assert plans == [
        [(0, 8), (1, 20), (2, 4)],  # still no answer to stall
        [(0, 1), (1, 1), (2, 5), (3, 1)],
        [(0, 1), (1, 1), (2, 1), (3, 2)],
        *[[(0, 1), (1, 1), (2, 1), (3, 1)]] * 5,
    ]


def test_an_answer_gets_its_row_in_every_step_however_long_an_older_prompt_is() -> None:
    scheduler = make_scheduler(num_pages=64, max_rows=16, prefill_budget=4, max_sequences=3)
    first = add(scheduler, 4)
    step(scheduler)
    long = add(scheduler, 60)
    step(scheduler)
    scheduler.finish(first, "stop")
    short = add(scheduler, 2)
    step(scheduler)  # nobody answers: 16 rows for the long one
    assert (long.computed, short.state) == (20, "waiting")
    answering = add(scheduler, 1)
    while not answering.output:
        answers = [request for request in (long, short) if request.output]
        rows = {work.request: work.count for work in step(scheduler)}
        assert [rows[request] for request in answers] == [1] * len(answers)
        assert sum(rows.values()) <= (16 if not answers else len(answers) + 4)
    assert min(len(long.output), len(short.output)) > 0


def test_no_prompt_waits_for_ever_behind_answers() -> None:
    """As many rows as sequences, and all but one answer: a row is left for the prompt."""
    scheduler = make_scheduler(max_rows=4, max_sequences=4, prefill_budget=1)
    answers = [add(scheduler, 1) for _ in range(3)]
    step(scheduler)
    prompt = add(scheduler, 9)
    for computed in range(1, 10):
        works = step(scheduler)
        assert {work.request for work in works} == {*answers, prompt}
        assert prompt.computed == computed
    assert len(prompt.output) == 1


def test_an_old_long_prompt_holds_up_no_answer() -> None:
    scheduler = make_scheduler(max_rows=4, max_sequences=3)
    requests = [add(scheduler, 2), add(scheduler, 50), add(scheduler, 40)]
    plans = [shape(step(scheduler), requests) for _ in range(3)]
    assert plans == [[(0, 2), (1, 2)], [(0, 1), (1, 3)], [(0, 1), (1, 3)]]
    scheduler.finish(requests[0], "stop")
    for _ in range(40):
        assert step(scheduler)[0].request is requests[1]
        if requests[2].state == "running":
            break
    assert {work.request for work in scheduler.schedule()} == set(requests[1:])


@pytest.mark.parametrize(("max_rows", "counts"), [(4, [4, 4, 1]), (8, [8, 1]), (16, [9])])
def test_prompts_are_cut_into_chunks(max_rows: int, counts: list[int]) -> None:
    scheduler = make_scheduler(max_rows=max_rows)
    request = add(scheduler, 9)
    seen = []
    while not request.output:
        works = scheduler.schedule()
        seen.append(works[0].count)
        assert works[0].completes == (sum(seen) == 9)
        assert works[0].outputs == int(works[0].completes)
        advance(scheduler, works)
    assert seen == counts


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    scheduler = make_scheduler(num_pages=6, context=24)
    oldest, middle, youngest, waiting = (add(scheduler, length) for length in (7, 6, 5, 7))
    step(scheduler)
    assert [request.state for request in (oldest, middle, youngest, waiting)] == ["running"] * 3 + ["waiting"]
    for _ in range(2):
        step(scheduler)
    assert [request.state for request in (oldest, middle, youngest, waiting)] == ["running"] * 2 + [
        "waiting"
    ] * 2
    assert list(scheduler.waiting) == [youngest, waiting]
    assert (youngest.computed, len(youngest.table), scheduler.preemptions) == (0, 0, 1)
    answered = len(youngest.output)
    scheduler.finish(oldest, "stop")
    works = scheduler.schedule()
    assert [work.request for work in works] == [middle, youngest]
    assert (youngest.computed, works[1].count) == (4, 1 + answered), "its full page was still there"
    assert works[1].completes
    assert (youngest.preemptions, youngest.reused) == (1, 0)


def test_whoever_gives_way_computes_everything_again_if_its_pages_were_taken() -> None:
    scheduler = make_scheduler(num_pages=6, context=24)
    oldest, youngest = add(scheduler, 9), add(scheduler, 9)
    while youngest.state != "waiting" or youngest.computed:
        step(scheduler)
    while len(oldest.tokens) < 24:
        step(scheduler)
    assert scheduler.pool.used == 6
    scheduler.finish(oldest, "length")
    works = scheduler.schedule()
    assert (works[0].request, works[0].count) == (youngest, len(youngest.tokens))


def test_cached_pages_are_taken_before_anybody_gives_way() -> None:
    scheduler = make_scheduler(num_pages=8, context=32)
    old = add(scheduler, 15)
    step(scheduler)
    scheduler.finish(old, "stop")
    assert (scheduler.pool.free, scheduler.pool.cached) == (5, 3)
    request = add(scheduler, 31, limit=32)
    step(scheduler)
    step(scheduler)
    assert (request.state, scheduler.pool.cached, scheduler.preemptions) == ("running", 0, 0)


def test_a_prompt_that_another_one_computed_is_not_computed_again() -> None:
    scheduler = make_scheduler()
    tokens = list(range(10))
    first = add(scheduler, 0, tokens=tokens)
    step(scheduler)
    second, third = add(scheduler, 0, tokens=tokens), add(scheduler, 0, tokens=[*tokens[:5], 1, 2])
    works = scheduler.schedule()
    assert [(work.request, work.count) for work in works] == [(first, 1), (second, 2), (third, 3)]
    assert [request.reused for request in (first, second, third)] == [0, 8, 4]
    assert first.table.entries[:2].tolist() == second.table.entries[:2].tolist()


def test_a_running_prompt_skips_what_another_one_has_computed_in_the_meantime() -> None:
    scheduler = make_scheduler(max_rows=16)
    tokens = list(range(14))
    first, second = (add(scheduler, 0, tokens=tokens) for _ in range(2))
    assert shape(step(scheduler), [first, second]) == [(0, 14), (1, 2)]
    works = scheduler.schedule()
    assert shape(works, [first, second]) == [(0, 1), (1, 2)]
    assert (second.computed, second.reused) == (12, 10)


def test_a_request_that_finds_no_room_holds_nothing() -> None:
    scheduler = make_scheduler(num_pages=8, context=32)
    first = add(scheduler, 0, tokens=list(range(9)))
    step(scheduler)
    second = add(scheduler, 0, tokens=list(range(28)))
    step(scheduler)
    assert (second.state, second.computed, second.reused, len(second.table)) == ("waiting", 0, 0, 0)
    scheduler.finish(first, "stop")
    step(scheduler)
    assert (second.state, second.reused) == ("running", 8)


def test_a_lone_request_may_fill_the_whole_context() -> None:
    scheduler = make_scheduler(num_pages=6, context=24)
    first, second = add(scheduler, 20, limit=24), add(scheduler, 20, limit=24)
    for request in (first, second):
        for _ in range(100):
            if len(request.tokens) == 24:
                break
            step(scheduler)
        assert len(request.tokens) == 24
        scheduler.finish(request, "length")
    pool = scheduler.pool
    assert (pool.used, pool.free + pool.cached, scheduler.preemptions) == (0, 6, 0)


def test_a_big_request_at_the_head_is_not_overtaken() -> None:
    scheduler = make_scheduler(num_pages=6, context=24, max_rows=32)
    running = add(scheduler, 10)
    step(scheduler)
    big, small = add(scheduler, 16), add(scheduler, 1)
    for _ in range(3):
        step(scheduler)
    assert [request.state for request in (running, big, small)] == ["running", "waiting", "waiting"]
    scheduler.finish(running, "stop")
    scheduler.schedule()
    assert [request.state for request in (big, small)] == ["running", "running"]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not hold a context"):
        make_scheduler(num_pages=3, context=13)
    with pytest.raises(ValueError, match="do not share"):
        make_scheduler(max_rows=3, max_sequences=4)
    with pytest.raises(ValueError, match="never ends"):
        make_scheduler(prefill_budget=0)


def test_the_batch_of_a_step() -> None:
    scheduler = make_scheduler(max_rows=4)
    first, second = add(scheduler, 5), add(scheduler, 2)
    step(scheduler)
    works = scheduler.schedule()
    batch = batch_of(works)
    assert batch.token_ids.tolist() == [4, 100, 101]
    assert batch.positions.tolist() == [4, 0, 1]
    assert batch.sequence_of_row.tolist() == [0, 1, 1]
    assert batch.logits_rows.tolist() == [0, 2]
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


def test_guesses_are_rows_behind_the_last_token_and_all_want_logits() -> None:
    scheduler = make_scheduler(max_rows=8)
    first, second = add(scheduler, 5), add(scheduler, 3)
    step(scheduler)
    long = add(scheduler, 9)
    works = scheduler.schedule()
    assert shape(works, [first, second, long]) == [(0, 1), (1, 1), (2, 6)]
    works[1] = Work(second, 1, (7, 8))
    assert [(work.rows, work.outputs) for work in works] == [(1, 1), (3, 3), (6, 0)]
    batch = batch_of(works)
    assert batch.token_ids.tolist() == [0, 0, 7, 8, 200, 201, 202, 203, 204, 205]
    assert batch.positions.tolist() == [5, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert batch.sequence_of_row.tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert batch.logits_rows.tolist() == [0, 1, 2, 3]
