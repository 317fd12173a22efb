"""What a receipt holds a run against: the machine as it was meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import boli
from boli.cli import receipt as receipts
from boli.cli.receipt import ENOUGH, LOOK_EVERY, Watch
from boli.cpu import limits
from boli.cpu.limits import Glances
from boli.engine.output import Chunk

THREADS = 2


@pytest.fixture(scope="module")
def llm() -> Iterator[boli.LLM]:
    with boli.load("smollm2", threads=THREADS, context=512) as found:
        yield found


def test_glances_are_as_fast_as_memory_and_are_given_back() -> None:
    glances = Glances(THREADS)
    for _ in range(9):
        glances.look()
    seen = glances.close()
    assert len(seen) == 9
    # Of a cache it would be several times as much; a busy machine may be slower.
    assert max(seen) < 3 * limits.measure(THREADS).read_bytes_per_s.max
    assert min(seen) > 0.0


@pytest.mark.model
def test_without_a_receipt_nothing_is_looked_at(llm: boli.LLM) -> None:
    watch = Watch(llm, wanted=False)
    time.sleep(LOOK_EVERY)
    watch.look(Chunk("a", (1,)))
    assert (watch._glances, watch._paused) == (None, 0.0)


@pytest.mark.model
def test_the_time_of_looks_is_not_decodings(llm: boli.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "LOOK_EVERY", 0.0)  # after each token
    watch, looks = Watch(llm, wanted=True), 0
    assert watch._glances is not None
    look = watch._glances.look

    def slow() -> None:
        nonlocal looks
        looks += 1
        time.sleep(0.05)
        look()

    monkeypatch.setattr(watch._glances, "look", slow)
    with llm.stream("1, 2, 3,", max_tokens=12, ignore_eos=True) as stream:
        for chunk in stream:
            watch.look(chunk)
    found = watch.receipt(llm, stream.completion)
    (measured,) = [each for each in found.speeds if each.phase == "decode"]
    assert looks >= ENOUGH
    took = stream.completion.timings.decode_s
    assert took > 0.05 * (looks - 1)
    assert 11 / measured.tokens_per_s < took - 0.05 * (looks - 1)


@pytest.mark.model
def test_a_short_run_is_held_against_before_and_after(llm: boli.LLM) -> None:
    watch = Watch(llm, wanted=True)
    with llm.stream("1, 2, 3,", max_tokens=2, ignore_eos=True) as stream:
        for chunk in stream:
            watch.look(chunk)
    found = watch.receipt(llm, stream.completion)
    assert {each.phase for each in found.speeds} == {"prompt", "decode"}
