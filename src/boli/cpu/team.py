"""The threads that run the compiled step together.

Starting a Python thread costs up to a millisecond, as much as a token of a small model. So the
team lives as long as its runner; `sync.py` says how it waits between steps.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import numpy.typing as npt

from boli.cpu import plan as p
from boli.cpu.compiler import Function
from boli.errors import BoliError

Words = npt.NDArray[np.int64]


class Team:
    """Threads 1 … n - 1; thread 0 is whoever calls `run`.

    Args:
        entry: The compiled `step.entry`.
        control: The zeroed control block, `control_words(threads)` long and aligned to 64 bytes.
        plan: The header of the plan.
        threads: How many threads share a step, the caller included.

    Raises:
        BoliError: the system does not let us have so many threads.
    """

    def __init__(self, entry: Function, control: Words, plan: Words, threads: int) -> None:
        self._entry, self._control, self._plan = entry, control, plan
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        self._call(p.PREPARE)
        try:
            for number in range(1, threads):
                # The arrays are arguments so that they live as long as the thread that looks at them.
                thread = threading.Thread(
                    target=_work, args=(entry, control, plan, number), name=f"boli-{number}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    raise BoliError(
                        f"thread {number + 1} of {threads} could not be started",
                        cause=str(error),
                        remedy="use fewer threads, or allow more processes and memory (`ulimit -u -v`)",
                    ) from error
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def run(self) -> None:
        """Runs one step, described by the plan, and returns when all threads have finished it.

        Raises:
            BoliError: the team was closed, or this is a forked child, where the threads do not exist.
        """
        if os.getpid() != self._process:
            raise BoliError(
                "a loaded model cannot be used in a forked process",
                cause="its threads stayed in the parent",
                remedy="load the model after the fork, or start processes by 'spawn'",
            )
        if self._call(p.STEP):
            raise BoliError("this model was closed", remedy="load it again")

    def close(self) -> None:
        """Ends the threads after the step that is running, if one is.

        May be called twice, by any thread, and in a forked child, where it does nothing.
        """
        if os.getpid() == self._process:
            self._call(p.END)
            for thread in self._threads:
                thread.join()
            self._threads = []

    def _call(self, what: int) -> int:
        return self._entry(what, self._control.ctypes.data, self._plan.ctypes.data, 0)


def control_words(threads: int) -> int:
    """Size of the control block of a team, in int64."""
    return (p.PASSED + threads * p.CACHE_LINE) // p.WORD


def _work(entry: Function, control: Words, plan: Words, thread: int) -> None:
    entry(p.WORK, control.ctypes.data, plan.ctypes.data, thread)
