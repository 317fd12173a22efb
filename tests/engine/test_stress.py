"""Ten thousand requests of all kinds through one engine with few pages."""

from __future__ import annotations

import random
from dataclasses import dataclass

from boli.engine.engine import Engine
from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from engine.books import audit
from engine.toy_engine import foretell, make_engine, output
from engine.toy_runner import expected_tokens

REQUESTS = 10_000
CONTEXT = 48
VOCAB = 16


@dataclass
class Asked:
    request: Request
    answer: list[int]
    aborted: bool = False


def test_ten_thousand_random_requests_each_reach_one_end_with_their_own_text() -> None:
    chance = random.Random(3)
    engine = make_engine(
        context=CONTEXT,
        num_pages=24,
        vocab_size=VOCAB,
        max_sequences=8,
        max_rows=32,
        prefill_budget=12,
        depth=3,
    )
    beginnings = [chance.choices(range(VOCAB), k=chance.randint(4, 30)) for _ in range(20)]
    open_ones: list[Asked] = []
    reasons: dict[str, int] = {}
    submitted = steps = reused = accepted = 0
    while submitted < REQUESTS or open_ones:
        while submitted < REQUESTS and len(open_ones) < 24 and chance.random() < 0.7:
            open_ones.append(ask(engine, chance, beginnings))
            submitted += 1
        if open_ones and chance.random() < 0.03:
            victim = chance.choice(open_ones)
            victim.aborted = True
            engine.abort(victim.request)
        engine.step()
        steps += 1
        if steps % 50 == 0:
            audit(engine, [one.request for one in open_ones])
        for one in open_ones:
            if one.request.finished:
                check(one)
                reason = str(one.request.finish_reason)
                reasons[reason] = reasons.get(reason, 0) + 1
                reused += one.request.reused
                accepted += one.request.guesses.accepted if one.request.guesses else 0
        open_ones = [one for one in open_ones if not one.request.finished]
    audit(engine, [])
    assert sum(reasons.values()) == REQUESTS
    assert min(reasons[reason] for reason in ("length", "stop", "aborted", "error")) > 100
    # All of it happened often, or nothing was tested.
    assert min(engine.scheduler.preemptions, reused, accepted) > 500


def ask(engine: Engine, chance: random.Random, beginnings: list[list[int]]) -> Asked:
    prompt = chance.choice(beginnings)[: chance.randint(1, 30)] + chance.choices(
        range(VOCAB), k=chance.randint(1, 6)
    )
    params = SamplingParams(
        max_tokens=chance.choice([1, 2, 3, 5, 8, 24]),
        temperature=chance.choice([0.0, 0.0, 1.0]),
        repetition_penalty=chance.choice([1.0, 1.0, 1.0, 1.2]),
        seed=chance.getrandbits(64),
    )
    answer = expected_tokens(prompt, params, VOCAB)[: CONTEXT - len(prompt)]
    stop_at = chance.randrange(VOCAB) if chance.random() < 0.2 else None
    if stop_at in answer:
        answer = answer[: answer.index(stop_at) + 1]

    broken = chance.random() < 0.03

    def listener(sampled: Sampled) -> bool:
        if broken:
            raise RuntimeError("broken")
        return sampled.id == stop_at

    request = engine.submit(prompt, params, listener=listener, salt=chance.choice([None, "a", "b"]))
    foretell(request, answer, chance.randint(1, 6))
    return Asked(request, answer)


def check(one: Asked) -> None:
    answer, reason = output(one.request), one.request.finish_reason
    if reason == "aborted":
        assert one.aborted
        assert answer == one.answer[: len(answer)]
    elif reason == "error":
        assert (answer, str(one.request.error)) == (one.answer[:1], "broken")
    else:
        assert answer == one.answer
