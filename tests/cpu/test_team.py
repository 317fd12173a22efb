"""The team of threads sleeps, wakes, ends, and refuses to be forked."""

from __future__ import annotations

import multiprocessing
import threading
import time

import numpy as np
import pytest

from boli.cpu.runner import CpuRunner
from boli.errors import BoliError
from cpu.driving import logits_of, make_runner
from tiny_models import TINY, Zoo, prompt


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("boli-")]


def test_threads_that_fell_asleep_wake_up_for_the_next_step(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=3)
    first = logits_of(runner, prompt(5))
    for pause in (0.0, 0.001, 0.02, 0.2, 0.5):
        time.sleep(pause)
        np.testing.assert_array_equal(logits_of(runner, prompt(5)), first)
    runner.close()


def test_an_idle_team_uses_no_processor_time(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=2)
    logits_of(runner, prompt(5))
    time.sleep(0.3)  # to fall asleep
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
    runner.close()


def test_closing_ends_the_threads_and_may_be_repeated(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=3)
    logits_of(runner, prompt(5))
    assert len(ours()) == 2
    runner.close()
    runner.close()
    assert not ours()


def test_a_forgotten_runner_ends_its_threads(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=2)
    logits_of(runner, prompt(5))
    del runner
    assert not ours()


def _use(runner: CpuRunner, queue: multiprocessing.Queue[str]) -> None:
    try:
        logits_of(runner, prompt(5))
    except BoliError as error:
        queue.put(error.message)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_an_error_instead_of_waiting_for_ever(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=2)
    logits_of(runner, prompt(5))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_use, args=(runner, queue))
    child.start()
    assert "forked" in queue.get(timeout=30)
    child.join(30)
    assert child.exitcode == 0
    runner.close()
