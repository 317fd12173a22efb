"""Sharing out the work of a stage: every piece is done once, whoever does it and however late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from boli.cpu import compiler
from boli.cpu import plan as p
from boli.cpu.team import control_words

STAGES = 50


def source() -> Callable[..., Any]:
    from boli.cpu.simd import load_i64
    from boli.cpu.sync import atomic_add, barrier, first_share, next_share, sched_yield

    def share_out(control: int, thread: int, threads: int, counts: int, done: int, who: int) -> int:
        """Does the pieces of 50 stages: counts each one, and for its thread those it has done."""
        for stage in range(50):
            count = load_i64(counts + stage * 8)
            first, end = first_share(control, thread, threads, count)
            while first < end:
                for piece in range(first, end):
                    atomic_add(done + (stage * 1000 + piece) * 8, 1)
                    atomic_add(who + (stage * 8 + thread) * 8, 1)
                if (first + stage + thread) % 3 == 0:  # threads take turns to be slow
                    for _ in range(20):
                        sched_yield()
                first, end = next_share(control, thread, threads, count)
            barrier(control, thread, threads)
        return 0

    return share_out


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 8])
def test_each_piece_of_each_stage_is_done_once(threads: int) -> None:
    [share_out] = compiler.load([compiler.Unit("share_out_in_a_test", 6, source)])
    control = np.zeros(control_words(threads) + 8, np.int64)
    control = control[-control.ctypes.data // 8 % 8 :]
    counts = np.random.default_rng(threads).integers(0, 1000, STAGES)
    counts[:6] = 0, 1, 2, threads - 1, threads, threads + 1
    counts[-1] = 1
    done, who = np.zeros((STAGES, 1000), np.int64), np.zeros((STAGES, 8), np.int64)
    # As if 2^20 stages were nearly over: their count, which is a part of what is shared, begins anew.
    passed = (1 << 20) - STAGES // 2
    control[p.BARRIER // p.WORD] = passed * threads
    control[p.PASSED // p.WORD :: p.CACHE_LINE // p.WORD] = passed

    arguments = [array.ctypes.data for array in (counts, done, who)]
    team = [
        threading.Thread(target=share_out, args=(control.ctypes.data, n, threads, *arguments), daemon=True)
        for n in range(threads)
    ]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(60)
        assert not thread.is_alive()
    np.testing.assert_array_equal(done, np.arange(1000) < counts[:, None])
    np.testing.assert_array_equal(who.sum(1), counts)
    if threads > 1:  # even who had nothing to do has left word of the last stage: no old word is believed
        words = control[(p.PASSED + p.WORD) // p.WORD :: p.CACHE_LINE // p.WORD][:threads]
        assert set(words >> 40) == {STAGES // 2}


def test_who_is_late_is_helped_and_who_is_not_keeps_to_its_own() -> None:
    """One thread does all the work of a stage, first its own part in order, then the others' from behind."""
    [share_out] = compiler.load([compiler.Unit("share_out_in_a_test", 6, source)])
    threads = 2
    control = np.zeros(control_words(threads) + 8, np.int64)
    control = control[-control.ctypes.data // 8 % 8 :]
    counts = np.full(STAGES, 400)
    done, who = np.zeros((STAGES, 1000), np.int64), np.zeros((STAGES, 8), np.int64)
    arguments = [array.ctypes.data for array in (counts, done, who)]
    alone = threading.Thread(
        target=share_out, args=(control.ctypes.data, 1, threads, *arguments), daemon=True
    )
    alone.start()
    while done[0].sum() < 400:
        pass
    assert control[p.BARRIER // p.WORD] <= 1  # the other one has not come yet
    share_out(control.ctypes.data, 0, threads, *arguments)
    alone.join(60)
    assert not alone.is_alive()
    assert who[0, 1] == 400
    np.testing.assert_array_equal(done, np.broadcast_to(np.arange(1000) < 400, done.shape))
