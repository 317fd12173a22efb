"""The threads that run the compiled step together.

Starting a Python thread costs up to a millisecond, as much as a token of a small model. So the
team lives as long as its runner. Between steps its threads spin for a moment, then yield, and then
sleep on a semaphore, so that an idle model costs no processor time.
"""

from __future__ import annotations

import os
import threading

from boli.cpu import plan as p
from boli.cpu.compiler import Function
from boli.errors import BoliError


class Team:
    """Threads 1 … n - 1; thread 0 is whoever calls `run`.

    Args:
        entry: The compiled `step.entry`.
        control: Address of the zeroed control block, `control_bytes(threads)` long.
        plan: Address of the header of the plan.
        threads: How many threads share a step, the caller included.
    """

    def __init__(self, entry: Function, control: int, plan: int, threads: int) -> None:
        self._entry, self._control, self._plan = entry, control, plan
        self._process = os.getpid()
        self._wake = [threading.Semaphore(0) for _ in range(threads)]
        self._threads = [
            threading.Thread(
                target=_work, args=(entry, control, plan, n, self._wake[n]), name=f"boli-{n}", daemon=True
            )
            for n in range(1, threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        """Runs one step, described by the plan, and returns when all threads have finished it.

        Raises:
            BoliError: this is a forked child, where the threads do not exist.
        """
        if os.getpid() != self._process:
            raise BoliError(
                "a loaded model cannot be used in a forked process",
                cause="its threads stayed in the parent",
                remedy="load the model after the fork, or start processes by 'spawn'",
            )
        self._release(self._entry(p.ANNOUNCE, self._control, self._plan, 0))
        self._entry(p.FORWARD, self._control, self._plan, 0)

    def close(self) -> None:
        """Ends the threads. May be called twice, and in a forked child, where it does nothing."""
        if not self._threads or os.getpid() != self._process:
            return
        self._release(self._entry(p.END, self._control, self._plan, 0))
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _release(self, asleep: int) -> None:
        for thread, semaphore in enumerate(self._wake):
            if asleep >> thread & 1:
                semaphore.release()


def control_bytes(threads: int) -> int:
    """Size of the control block of a team."""
    return p.THREAD_STATE + threads * p.CACHE_LINE


def _work(entry: Function, control: int, plan: int, thread: int, wake: threading.Semaphore) -> None:
    while entry(p.WORK, control, plan, thread):
        wake.acquire()
