"""Engines in processes of their own; `workers/serving.py` is their side of the conversation."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

WORKERS = Path(__file__).parent / "workers"


class EngineError(Exception):
    """An engine could not do what it was asked."""


class Engine:
    """One process that runs one engine. It is stopped whenever it has not been asked something.

    Engines that wait in a loop would else take time from the one whose turn it is; OpenVINO does.

    Args:
        python: The interpreter that has the engine.
        name: `boli`, `llama`, `openvino` or `transformers`.
        threads: How many threads and processors it gets.
    """

    def __init__(self, python: str, name: str, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(WORKERS / f"{name}_worker.py"), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        if hasattr(os, "sched_setaffinity"):  # before it has loaded anything
            os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[:threads])

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> Any:
        """What the engine answers.

        Raises:
            EngineError: It failed, or its process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        self._process.send_signal(signal.SIGSTOP)
        if not line:
            self._process.send_signal(signal.SIGCONT)
            raise EngineError(f"{self.name} ended with code {self._process.wait()}; see its words above")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(f"{self.name}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """Ends the process and waits for that."""
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError), self._process:  # closes its pipes, and waits
            pass


# The peak that the system tells of a process includes what its parent held when it was started. So
# programs are started by this small one.
_STARTER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
])
_, status, usage = os.wait4(pid, 0)
taken = time.perf_counter() - start
with open(sys.argv[1], "w") as file:
    file.write(f"{taken} {usage.ru_maxrss * 1024} {os.waitstatus_to_exitcode(status)}")
"""


def whole_run(command: Sequence[str]) -> tuple[float, int]:
    """Wall time in seconds and peak of resident bytes of a program that is run to its end.

    Raises:
        EngineError: It ended with an error.
    """
    with tempfile.NamedTemporaryFile() as report:
        starter = [sys.executable, "-I", "-S", "-c", _STARTER, report.name, *command]
        # An installed program has its bytecode; from its source, the run that is not counted writes it.
        environment = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
        words = subprocess.run(starter, stderr=subprocess.PIPE, env=environment, check=False).stderr
        fields = report.read().split()
    if len(fields) != 3 or int(fields[2]):
        raise EngineError(f"{command[0]} failed: {words.decode(errors='replace')[-500:]}")
    return float(fields[0]), int(fields[1])
