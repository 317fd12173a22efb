"""Drafts against brute force, and the policy that decides how long they are."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.engine.draft import LONGEST, MARGIN, PLACES, SELDOM, Acceptance, Drafter, StepCosts

texts = st.lists(st.integers(0, 2), max_size=60) | st.lists(st.integers(0, 20), max_size=120)


def brute_force(tokens: Sequence[int], most: int) -> list[int]:
    """The definition: every earlier place compared, longest match, latest first, agreement."""
    end = len(tokens) - 1
    lengths: dict[int, int] = {}
    for place in range(end - 1, -1, -1):
        length = 0
        while length <= place and tokens[place - length] == tokens[end - length]:
            length += 1
        lengths[place] = min(length, LONGEST)
    longest = max(lengths.values(), default=0)
    if longest < 2:
        return []
    places = [place for place, length in lengths.items() if length == longest]
    if longest == LONGEST:
        places = places[:1]
    draft: list[int] = []
    for ahead in range(1, 1 + min(most, 2 * longest)):
        options = [[*tokens, *draft][place + ahead] for place in places]
        if draft and len(set(options)) > 1:
            break
        draft.append(options[0])
    return draft


def occurrences(tokens: Sequence[int]) -> int:
    """How often the last two tokens stood there before."""
    return sum(tuple(tokens[i : i + 2]) == tuple(tokens[-2:]) for i in range(len(tokens) - 2))


@given(texts, st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_a_draft_follows_the_longest_match(tokens: list[int], most: int) -> None:
    if occurrences(tokens) <= PLACES:
        assert Drafter(tokens).propose(most) == brute_force(tokens, most)


@given(texts, st.lists(st.integers(1, 9), max_size=20), st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_a_drafter_fed_in_pieces_is_one_fed_at_once(tokens: list[int], cuts: list[int], most: int) -> None:
    drafter, fed = Drafter(tokens[:5]), tokens[:5]
    for cut in cuts:
        piece = tokens[len(fed) : len(fed) + cut]
        drafter.extend(piece)
        fed = fed + piece
        draft = drafter.propose(most)
        assert len(draft) <= most
        if occurrences(fed) <= PLACES:
            assert draft == Drafter(fed).propose(most)


def test_without_a_repetition_there_is_no_draft() -> None:
    assert Drafter().propose(8) == []
    assert Drafter([7]).propose(8) == []
    assert Drafter(range(100)).propose(8) == []
    assert Drafter([5, 1, 2, 3, 5]).propose(8) == []  # one token is no match
    assert Drafter([5, 1, 2, 5, 1]).propose(0) == []


def test_a_repetition_goes_on_in_circles() -> None:
    assert Drafter([4, 9, 4, 9, 4]).propose(6) == [9, 4, 9, 4, 9, 4]
    assert Drafter([3] * 40).propose(20) == [3] * 20


def test_a_short_match_gives_a_short_draft() -> None:
    earlier = list(range(10, 40))
    assert Drafter([*earlier, 0, 12, 13]).propose(20) == [14, 15, 16, 17]
    assert Drafter([*earlier, 0, 12, 13, 14, 15]).propose(20) == [*range(16, 24)]


def test_a_draft_ends_where_earlier_places_disagree() -> None:
    text = [3, 1, 2, 7, 8, 4, 1, 2, 7, 9, 5, 1, 2]
    assert Drafter(text).propose(4) == [7]
    # The first token needs no agreement: the latest place has it.
    assert Drafter([3, 1, 2, 7, 0, 4, 1, 2, 9, 6, 5, 1, 2]).propose(4) == [9]


def test_what_is_being_copied_is_not_lost_among_many_places() -> None:
    """The pair (1, 2) stands in more places than are looked at; the one being copied is the oldest."""
    source = [50, 51, 52, 1, 2, 60, 61]
    noise = [token for i in range(2 * PLACES) for token in (100 + i, 1, 2, 200 + i)]
    text = [*source, *noise, 50, 51]
    drafter = Drafter(text)
    assert drafter.propose(3) == [52, 1, 2]
    drafter.extend([52, 1, 2])
    assert drafter.propose(2) == [60, 61]
    assert Drafter([*text, 52, 1, 2]).propose(2) != [60, 61]  # it was what the drafter remembers


def test_memory_is_bounded_by_the_text() -> None:
    rng = random.Random(0)
    tokens = [rng.randrange(150_000) for _ in range(20_000)]  # every pair is new: the worst case
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    drafter = Drafter(tokens)
    drafter.propose(8)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 160 * len(tokens)


def costs_of(seconds: Callable[[int], float], rows: Sequence[int]) -> StepCosts:
    costs = StepCosts()
    for count in rows:
        for _ in range(3):
            costs.observe(count, seconds(count))
    return costs


def test_a_cold_step_and_interruptions_do_not_count() -> None:
    costs = StepCosts()
    assert costs.estimate(1) == 0
    costs.observe(1, 30.0)
    assert costs.estimate(1) == 0
    for seconds in (1.0, 1.1, 9.0, 0.9, 8.0):
        costs.observe(1, seconds)
    assert costs.estimate(1) == 1.1
    for _ in range(StepCosts.RECENT):  # a new level is learnt in a few steps
        costs.observe(1, 4.0)
    assert costs.estimate(1) == 4.0


def test_costs_lie_on_lines_between_what_was_seen() -> None:
    costs = costs_of(lambda rows: {2: 1.0, 4: 2.0, 8: 3.0}[rows], (2, 4, 8))
    assert [costs.estimate(rows) for rows in (1, 2, 3, 4, 6, 8, 12)] == [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]


def test_one_number_speaks_for_all_and_more_rows_never_cost_less() -> None:
    assert costs_of(lambda _: 5.0, (3,)).estimate(100) == 5.0
    assert costs_of(lambda rows: {1: 3.0, 2: 2.0}[rows], (1, 2)).estimate(50) == 2.0


def test_old_costs_are_forgotten_and_the_table_is_bounded() -> None:
    costs = costs_of(float, (1, 5))
    for _ in range(StepCosts.MEMORY):
        costs.observe(1, 1.0)
    assert costs.estimate(5) == 1.0  # unknown again, so worth trying
    for rows in range(1, 4 * StepCosts.MEMORY):
        costs.observe(rows, 1.0)
        costs.observe(rows, 1.0)
    assert max(len(costs._seen), len(costs._recent), len(costs._costs), len(costs._rows)) <= StepCosts.MEMORY
    assert costs._rows == sorted(costs._costs)


@given(
    st.lists(st.floats(0.05, 1.5), min_size=9, max_size=9),
    st.lists(st.tuples(st.integers(1, 8), st.floats(0, 1)), max_size=20),
    st.integers(0, 8),
    st.floats(1, 16),
)
@settings(max_examples=200, deadline=None)
def test_depth_is_the_best_of_all(
    steps: list[float], drafts: list[tuple[int, float]], most: int, tokens: float
) -> None:
    """Against the same question asked in full: tokens a second for every number of guesses."""
    prices = [sum(steps[: rows + 1]) for rows in range(9)]
    costs = costs_of(lambda rows: prices[rows - 1], range(1, 10))
    acceptance = Acceptance()
    for proposed, share in drafts:
        acceptance.observe(proposed, int(proposed * share))
    p = acceptance.rate
    speeds = {
        k: (tokens + sum(p**i for i in range(1, k + 1))) / prices[k]
        for k in range(most + 1)
        if p**k >= SELDOM
    }
    depth = acceptance.depth(costs, 1, most, tokens)
    if depth == 0:
        assert max(speeds.values()) <= speeds[0] * MARGIN * (1 + 1e-9)
    else:
        assert speeds[depth] >= max(speeds.values()) * (1 - 1e-9)
        assert speeds[depth] > speeds[0]


def test_nothing_is_drafted_before_a_plain_step_was_measured() -> None:
    assert Acceptance().depth(StepCosts(), 1, 8) == 0


@pytest.mark.parametrize(("price", "accepted", "deep"), [(0.05, 8, 8), (0.05, 0, 0), (1.0, 8, 0)])
def test_guessing_pays_when_it_is_cheap_and_lucky(price: float, accepted: int, deep: int) -> None:
    costs = costs_of(lambda rows: 1 + price * (rows - 1), (1, 2, 9))
    acceptance = Acceptance()
    for _ in range(30):
        acceptance.observe(8, accepted)
    assert acceptance.depth(costs, 1, 8) == deep


def test_a_crowded_step_drafts_less() -> None:
    """With 16 requests in the step a guess must pay for what it takes from all of them."""
    costs = costs_of(lambda rows: 1 + 0.1 * rows, (1, 32))
    acceptance = Acceptance()
    assert acceptance.depth(costs, 1, 8) > 0
    assert acceptance.depth(costs, 16, 8, tokens=32.0) == 0


def failed(acceptance: Acceptance, costs: StepCosts, steps: int) -> int:
    """Guesses made in so many steps of which none comes true."""
    total = 0
    for _ in range(steps):
        depth = acceptance.depth(costs, 1, 8)
        acceptance.observe(depth, 0)
        total += depth
    return total


def test_guesses_that_fail_cost_next_to_nothing() -> None:
    costs = costs_of(lambda rows: 1 + 0.2 * rows, (1, 2, 9))
    acceptance = Acceptance()
    assert failed(acceptance, costs, 500) < 50
    assert failed(acceptance, costs, 5000) <= 5000 * Acceptance.PROBE / Acceptance.LAST_PAUSE + 10


def test_where_not_even_luck_would_pay_nothing_is_tried() -> None:
    assert failed(Acceptance(), costs_of(float, (1, 2, 9)), 1000) == 0


def test_guessing_comes_back_when_the_text_changes() -> None:
    costs = costs_of(lambda rows: 1 + 0.2 * rows, (1, 2, 9))
    acceptance = Acceptance()
    failed(acceptance, costs, 5000)
    steps = 0
    while (depth := acceptance.depth(costs, 1, 8)) <= Acceptance.PROBE:
        acceptance.observe(depth, depth)
        steps += 1
        assert steps < Acceptance.LAST_PAUSE + 10


def seconds_for(answer: Sequence[int], prompt: Sequence[int], step: Callable[[int], float]) -> float:
    """Time of an answer as the engine would make it, in the currency of `step(rows)`."""
    drafter, acceptance, costs = Drafter(prompt), Acceptance(), StepCosts()
    done, total = 0, 0.0
    while done < len(answer):
        draft = drafter.propose(acceptance.depth(costs, 1, 8))
        right = 0
        while right < min(len(draft), len(answer) - done - 1) and draft[right] == answer[done + right]:
            right += 1
        acceptance.observe(len(draft), right)
        costs.observe(1 + len(draft), step(1 + len(draft)))
        total += step(1 + len(draft))
        drafter.extend(answer[done : done + right + 1])
        done += right + 1
    return total


def test_a_copied_text_is_several_times_faster_and_a_new_one_hardly_slower() -> None:
    rng = random.Random(1)
    prompt = [rng.randrange(1000) for _ in range(500)]

    def cheap(rows: int) -> float:
        return 1 + 0.1 * (rows - 1)

    def dear(rows: int) -> float:
        return float(rows)

    copied = prompt[100:400]
    assert seconds_for(copied, prompt, cheap) < len(copied) / 3
    # Pairs repeat all the time in random bits, and tell nothing.
    noise = [rng.randrange(8) for _ in range(2000)]
    assert seconds_for(noise[1000:], noise[:1000], cheap) < 1.05 * 1000
    assert seconds_for(noise[1000:], noise[:1000], dear) < 1.05 * 1000
