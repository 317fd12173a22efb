"""The team of threads sleeps, wakes, is crowded, interrupted and forked, ends, and leaves nothing behind.

What cannot be tested is a single thread that is killed: no system call ends one thread of a process,
and a fault in compiled code ends the whole process.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from boli.cpu import header as header_module
from boli.cpu import runner as runner_module
from boli.cpu import team as team_module
from boli.cpu.runner import CpuRunner
from boli.cpu.team import Team, control_words
from boli.errors import BoliError
from cpu.driving import Logits, logits_of, make_runner, step
from tiny_models import TINY, Zoo, prompt, wide


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("boli-")]


@contextmanager
def running(model: Path, threads: int) -> Iterator[CpuRunner]:
    runner = make_runner(model, threads=threads)
    try:
        yield runner
    finally:
        runner.close()


# --- sleeping and waking --------------------------------------------------------------------------


def test_threads_that_fell_asleep_wake_up_for_the_next_step(zoo: Zoo) -> None:
    with running(zoo.folder(TINY["llama"]), 3) as runner:
        first = logits_of(runner, prompt(5))
        for pause in (0.0, 0.001, 0.02, 0.2, 0.5):
            time.sleep(pause)
            np.testing.assert_array_equal(logits_of(runner, prompt(5)), first)


def test_an_idle_team_uses_no_processor_time(zoo: Zoo) -> None:
    with running(zoo.folder(TINY["llama"]), 2) as runner:
        logits_of(runner, prompt(5))
        time.sleep(0.3)  # to fall asleep
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1


# --- many threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["F32", "Q4_1"])
def test_the_number_of_threads_changes_no_bit(fmt: str, zoo: Zoo) -> None:
    path, found = zoo.gguf(wide("llama"), fmt), []
    for threads in (1, 2, 3, 4):
        with running(path, threads) as runner:
            found.append(logits_of(runner, prompt(40)))
    assert found[0].std() > 0.1
    for other in found[1:]:
        np.testing.assert_array_equal(other.view(np.int32), found[0].view(np.int32))


# Feeds all but the last token without asking for logits, then the last one, again and again. A
# process of its own, because a team that is stuck could not be left.
CROWDED = """
import sys
from pathlib import Path
import numpy as np
from boli.engine.batch import Batch
from cpu.driving import logits_of, make_runner, page_tables, step

path, threads, times, result = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
ids = np.arange(3, 23, dtype=np.int32)
prefill = Batch(
    token_ids=ids[:-1], positions=np.arange(19, dtype=np.int32), sequence_of_row=np.zeros(19, np.int32),
    page_tables=page_tables(8), logits_rows=np.empty(0, np.int32),
)
runner = make_runner(path, threads=threads)
found = []
for _ in range(times):
    runner.forward(prefill)
    found.append(step(runner, [(0, 19, ids[-1:])])[0])
runner.close()
np.save(result, found)
"""
BUSY = "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end: pass"


@pytest.mark.parametrize(("threads", "times"), [(4, 100), (8, 50)])
def test_more_threads_than_cores_are_slow_but_neither_stuck_nor_wrong(
    threads: int, times: int, zoo: Zoo, tmp_path: Path
) -> None:
    """Beside a program that takes all the time it can get."""
    model, result = zoo.folder(TINY["llama"]), tmp_path / "logits.npy"
    with running(model, 1) as runner:
        expected = logits_of(runner, range(3, 23))[-1]
    competitor = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        arguments = [str(model), str(threads), str(times), str(result)]
        subprocess.run([sys.executable, "-c", CROWDED, *arguments], env=with_tests(), check=True, timeout=120)
    finally:
        competitor.kill()
        competitor.wait()
    found = np.load(result)
    assert len(found) == times
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def with_tests() -> dict[str, str]:
    """An environment in which a process can import what stands in `tests`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}


# --- two models -----------------------------------------------------------------------------------


def test_two_models_in_one_process_do_not_disturb_each_other(zoo: Zoo) -> None:
    """Step by step in turn, and each from a Python thread of its own."""
    models = [zoo.folder(TINY["llama"]), zoo.gguf(wide("gemma3"), "Q8_0")]
    texts, alone = [prompt(30, 1), prompt(30, 2)], []
    for model, text in zip(models, texts, strict=True):
        with running(model, 2) as runner:
            alone.append(logits_of(runner, text))
    with running(models[0], 2) as first, running(models[1], 2) as second:
        both = first, second
        for position in range(30):
            for n in (0, 1):
                found = step(both[n], [(0, position, texts[n][position : position + 1])])
                np.testing.assert_array_equal(found[0], alone[n][position])
        together: list[list[Logits]] = [[], []]

        def work(n: int) -> None:
            together[n] = [logits_of(both[n], texts[n], chunk=7) for _ in range(10)]

        workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        for n in (0, 1):
            assert len(together[n]) == 10
            for found in together[n]:
                np.testing.assert_array_equal(found, alone[n])


# --- interruption ---------------------------------------------------------------------------------


def test_ctrl_c_during_steps_leaves_the_model_usable(zoo: Zoo) -> None:
    with running(zoo.folder(TINY["llama"]), 2) as runner:
        text = prompt(20)
        expected = logits_of(runner, text)
        for delay in (0.001, 0.003, 0.01, 0.02, 0.05):
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                while True:
                    logits_of(runner, text, chunk=3)
            timer.join()
            np.testing.assert_array_equal(logits_of(runner, text), expected)


def test_ctrl_c_at_any_line_of_a_step_leaves_the_model_usable(zoo: Zoo) -> None:
    """Python raises KeyboardInterrupt between two of its own instructions: here, before each line in turn.

    The steps ask for ever more rows of logits, so that their buffer grows in the interrupted step.
    """
    files = {module.__file__ for module in (runner_module, header_module, team_module)}
    text = prompt(120)
    model = zoo.folder(TINY["llama"])
    with running(model, 2) as runner:
        expected = logits_of(runner, text, chunk=60)
    line, finished = 0, False
    while not finished:
        line += 1
        left = line

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        runner = make_runner(model, threads=2) if line % 40 == 1 else runner
        before, rows = sys.gettrace(), line % 40 + 1
        sys.settrace(trace)
        try:
            step(runner, [(0, 0, text[: rows + 1])])
            finished = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        np.testing.assert_array_equal(logits_of(runner, text[:rows]), expected[:rows])
        if finished or line % 40 == 0:
            runner.close()
    assert line > 30


# --- fork -----------------------------------------------------------------------------------------


def _in_a_fork(model: Path, runner: CpuRunner, queue: multiprocessing.Queue[Any]) -> None:
    try:
        logits_of(runner, prompt(5))
    except BoliError as error:
        queue.put(error.message)
    runner.close()  # must not wait for the parent's threads
    with running(model, 2) as own:
        queue.put(logits_of(own, prompt(5)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_an_error_and_may_load_its_own(zoo: Zoo) -> None:
    model = zoo.folder(TINY["llama"])
    with running(model, 2) as runner:
        expected = logits_of(runner, prompt(5))
        fork = multiprocessing.get_context("fork")
        queue = fork.Queue()
        child = fork.Process(target=_in_a_fork, args=(model, runner, queue))
        child.start()
        assert "forked" in queue.get(timeout=30)
        np.testing.assert_array_equal(queue.get(timeout=30), expected)
        child.join(30)
        assert child.exitcode == 0
        np.testing.assert_array_equal(logits_of(runner, prompt(5)), expected)


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("asleep", [False, True])
def test_closing_ends_the_threads_and_may_be_repeated(asleep: bool, zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=3)
    logits_of(runner, prompt(5))
    assert len(ours()) == 2
    if asleep:
        time.sleep(0.2)
    runner.close()
    runner.close()
    assert not ours()


def test_a_closed_model_says_so(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=2)
    runner.close()
    with pytest.raises(BoliError, match="closed"):
        logits_of(runner, prompt(5))


def test_a_forgotten_runner_ends_its_threads(zoo: Zoo) -> None:
    runner = make_runner(zoo.folder(TINY["llama"]), threads=2)
    logits_of(runner, prompt(5))
    del runner
    assert not ours()


EXIT = """
import sys, threading, time
from pathlib import Path
from boli.errors import BoliError
from cpu.driving import logits_of, make_runner

runner = make_runner(Path(sys.argv[1]), threads=3)
logits_of(runner, [5, 6, 7])
"""
ENDINGS = {
    "awake": "",
    "asleep": "time.sleep(0.2)",
    "exit": "sys.exit()",
    "in the middle of a step": """
def work():
    try:
        while True:
            logits_of(runner, range(3, 63))
    except BoliError:
        pass  # it was closed, between two steps
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_with_its_model_loaded(ending: str, zoo: Zoo) -> None:
    code = EXIT + ENDINGS[ending]
    done = subprocess.run(
        [sys.executable, "-c", code, zoo.folder(TINY["llama"])],
        env=with_tests(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# An end may come before a thread of the team has woken up for the last step. Here it always does: the
# thread begins its life when both were announced. Each in a process of its own, which may be stuck.
LATE = """
import sys, threading, time
from pathlib import Path
import numpy as np
from boli.cpu import plan as p
from boli.cpu.team import control_words
from boli.errors import BoliError
from cpu.driving import logits_of, make_runner

runner = make_runner(Path(sys.argv[1]), threads=2)
expected = logits_of(runner, [5, 6, 7])
entry, plan, team = runner._team._entry, runner._team._plan, runner._team
control = np.zeros(control_words(2) + 8, np.int64)
control = control[-control.ctypes.data // 8 % 8 :]
plan[p.CONTROL // p.WORD] = control.ctypes.data
call = lambda what, thread: entry(what, control.ctypes.data, plan.ctypes.data, thread)
call(p.PREPARE, 0)
"""
LATE_FOR = {
    "a step": """
found = []
step = threading.Thread(target=lambda: found.append(call(p.STEP, 0)))
step.start()
while control[p.GO // p.WORD] == 0: time.sleep(0.001)
end = threading.Thread(target=call, args=(p.END, 0))
end.start()
while control[p.STOP // p.WORD] == 0: time.sleep(0.001)
time.sleep(0.05)
assert end.is_alive()  # waits for the step
call(p.WORK, 1)
step.join(), end.join()
assert found == [0]
assert (runner._logits[:3, :expected.shape[1]] == expected).all()
""",
    "nothing": """
call(p.END, 0)
call(p.WORK, 1)
assert call(p.STEP, 0) == 1
team.close()
try:
    team.run()
except BoliError as error:
    assert "closed" in str(error)
else:
    raise AssertionError("ran without its threads")
""",
}


@pytest.mark.parametrize("late_for", LATE_FOR)
def test_a_step_and_an_end_come_one_after_the_other(late_for: str, zoo: Zoo) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE + LATE_FOR[late_for], zoo.folder(TINY["llama"])],
        env=with_tests(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_thread_that_cannot_start_is_an_error_and_leaves_none_behind(zoo: Zoo) -> None:
    """The address space has room for the stack of the first thread, and not of the second."""
    stack = 1 << 28
    with running(zoo.folder(TINY["llama"]), 1) as runner:
        entry, plan = runner._team._entry, runner._team._plan
        control = np.zeros(control_words(3) + 8, np.int64)
        control = control[-control.ctypes.data // 8 % 8 :]
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        before = threading.stack_size(stack)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + stack * 3 // 2, hard))
        try:
            with pytest.raises(BoliError, match="thread 3 of 3"):
                Team(entry, control, plan, 3)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            threading.stack_size(before)
        assert not ours()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def address_space() -> int:
    """Bytes that this process has mapped, used or not."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_loading_and_closing_again_and_again_leaks_nothing(zoo: Zoo) -> None:
    model = zoo.gguf(wide("llama"), "Q8_0")

    def cycle() -> None:
        runner = make_runner(model, threads=3, sequences=128)
        logits_of(runner, prompt(5))
        runner.close()

    for _ in range(5):
        cycle()
    gc.collect()
    files, memory = open_files(), address_space()
    for _ in range(20):
        cycle()
    gc.collect()
    assert not ours()
    assert open_files() == files
    assert address_space() - memory < 64 << 20  # the caches of 20 models have more than 300 MB
