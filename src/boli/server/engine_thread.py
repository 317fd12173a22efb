"""The one thread that steps the engine, and takes in what is new between two steps."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from boli.engine.engine import Engine
from boli.server.answer import Answer

log = logging.getLogger("boli.server")

IDLE_SECONDS = 1.0  # between two beats of the heart when there is nothing to do


class EngineThread:
    """Steps an engine as long as there is something to do, and whatever happens.

    Args:
        engine: Nobody else should step it for long.
        wake: Called after each step, in this thread; cheap, and raises nothing.

    Attributes:
        inbox: Answers that wait to be taken in.
        failures: How many steps failed in a row.
    """

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self.engine = engine
        self.inbox: deque[Answer] = deque()
        self.failures = 0
        self._wake = wake
        self._calls: deque[Callable[[], None]] = deque()
        self._bell = threading.Event()
        self._closing = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="boli-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Lets the thread end after the step that it is in."""
        self._closing = True
        self._bell.set()

    def take(self, answers: list[Answer]) -> None:
        """Puts answers into the inbox."""
        self.inbox.extend(answers)
        self._bell.set()

    def call(self, work: Callable[[], None]) -> None:
        """Has something called between two steps."""
        self._calls.append(work)
        self._bell.set()

    def abort(self, answer: Answer) -> None:
        """Ends a request at the next step, or before it begins."""
        if answer.request is not None:
            self.engine.abort(answer.request, wait=False)
        self._bell.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def beat_age(self) -> float:
        """Seconds since the thread was last between two steps."""
        return time.monotonic() - self._beat

    def _run(self) -> None:
        try:
            while not self._closing:
                self._bell.clear()
                self._beat = time.monotonic()
                busy = self._turn()
                self._wake()
                if not busy and not self.inbox and not self._calls:
                    self._bell.wait(IDLE_SECONDS)
        except BaseException:
            log.exception("engine thread ends")
            raise
        finally:
            while self._calls:  # somebody waits for each of them
                self._calls.popleft()()
            self._wake()

    def _turn(self) -> bool:
        """Takes in what is new, and makes one step; whether there was anything to do."""
        for _ in range(len(self._calls)):  # what comes meanwhile comes after the step
            self._calls.popleft()()
        while self.inbox:
            self._admit(self.inbox.popleft())
        try:
            busy = self.engine.step()
        except Exception:  # the engine has ended the requests that it hit
            log.exception("step failed")
            self.failures += 1
            return True
        self.failures = 0
        return busy

    def _admit(self, answer: Answer) -> None:
        job = answer.job
        try:
            answer.request = self.engine.submit(
                job.prompt_ids,
                job.params,
                listener=answer.listener,
                salt=job.salt,
                constraint=job.constraint,
                prompt_logprobs=job.prompt_logprobs,
            )
        except Exception as error:  # it is one request's trouble
            answer.failure = error
            return
        if answer.cancelled:  # before there was a request that could be aborted
            self.engine.abort(answer.request, wait=False)
