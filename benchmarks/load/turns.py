"""What all trials share: servers that take turns, and one run of load on each."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from load.client import Sample, in_turn, together
from load.figures import Figures, percentile, summary
from load.servers import Server, ServerError, Setting, boli_command, free_port, llama_command
from load.traffic import questions

PROMPT, OUTPUT = 128, 64  # tokens of an ordinary question and its answer
PATIENCE_S = 180.0  # for one answer

Run = Callable[[Server], Coroutine[Any, Any, list[Sample]]]


class Turns:
    """Starts servers and puts load on them, one at a time.

    Args:
        setting: What both have in common.
        llama_server: The program, or None to measure boli alone.
        repeat: How many turns each has.
        requests: How many requests an open loop has.
        seconds: How long an overload lasts.

    Attributes:
        versions: Of the servers that were started.
    """

    def __init__(
        self, setting: Setting, *, llama_server: str | None, repeat: int, requests: int, seconds: float
    ) -> None:
        self.setting = setting
        self.llama_server = llama_server
        self.repeat, self.requests, self.seconds = repeat, requests, seconds
        self.versions: dict[str, str] = {}
        self._flash = ""

    @contextmanager
    def boli(self, **changes: Any) -> Iterator[Server]:
        """boli, asleep, with a changed setting."""
        port = free_port()
        with Server("boli", boli_command(replace(self.setting, **changes), port), port) as server:
            server.stop()
            yield server

    @contextmanager
    def llama(self, flash: str = "", **changes: Any) -> Iterator[Server]:
        """llama-server, asleep; with flash attention if that was found to be faster."""
        assert self.llama_server is not None
        port, setting = free_port(), replace(self.setting, **changes)
        command = llama_command(self.llama_server, setting, port, flash or self._better_flash())
        with Server("llama-server", command, port) as server:
            server.stop()
            yield server

    @contextmanager
    def both(self, **changes: Any) -> Iterator[list[Server]]:
        """boli, and llama-server if there is one; both warm."""
        with ExitStack() as stack:
            servers = [stack.enter_context(self.boli(**changes))]
            if self.llama_server is not None:
                servers.append(stack.enter_context(self.llama(**changes)))
            for server in servers:
                self.streams(server, count=4, output=16, seed=0)
            yield servers

    def put(self, server: Server, run: Run) -> tuple[list[Sample], float]:
        """One run of load on a server that sleeps otherwise.

        Returns:
            What came of it, and the share of one core that this client took meanwhile.
        """
        server.go_on()
        start, used = time.perf_counter(), _cpu_seconds()
        try:
            samples = asyncio.run(run(server))
        finally:
            server.stop()
        return samples, (_cpu_seconds() - used) / (time.perf_counter() - start)

    def streams(
        self, server: Server, *, count: int = 8, prompt: int = PROMPT, output: int = 128, seed: int
    ) -> Figures:
        """So many streams at once, all of which must be answered."""
        asked = questions(count, prompt=prompt, output=output, seed=seed)
        samples, client = self.put(server, lambda at: together(at.place, asked, PATIENCE_S))
        return {**summary(self.all_good(server, samples)), "client_share_of_a_core": client}

    def capacity(self, server: Server, *, seed: int) -> float:
        """Requests a second with all streams busy."""
        count = 4 * self.setting.streams
        asked = questions(count, prompt=PROMPT, output=OUTPUT, seed=seed)
        samples, _ = self.put(server, lambda at: in_turn(at.place, asked, self.setting.streams, PATIENCE_S))
        return float(summary(self.all_good(server, samples))["requests_per_s"])

    def all_good(self, server: Server, samples: list[Sample]) -> list[Sample]:
        """The samples, if all were answered.

        Raises:
            ServerError: One was not.
        """
        for sample in samples:
            if not sample.good:
                raise ServerError(f"{server.name} answered {sample.status}: {sample.error or 'no text'}")
        return samples

    def note_versions(self) -> None:
        """Asks the programs what they are."""
        self.versions["boli"] = _output([sys.executable, "-m", "boli", "--version"])
        if self.llama_server is not None:
            self.versions["llama-server"] = _output([self.llama_server, "--version"])
            self.versions["llama-server, flash attention"] = self._better_flash()

    def _better_flash(self) -> str:
        if not self._flash:
            speed = {}
            for flash in ("off", "on"):
                with self.llama(flash) as server:
                    self.streams(server, count=8, output=8, seed=0)
                    runs = [
                        self.streams(server, count=8, output=32, seed=seed)["output_tokens_per_s"]
                        for seed in (1, 2)
                    ]
                    speed[flash] = max(runs)
            self._flash = max(speed, key=lambda flash: speed[flash])
        return self._flash


def ttft_p99(samples: list[Sample]) -> float:
    """The time to the first token that 99 of 100 did not exceed; without one it is all our patience."""
    return percentile([sample.ttft if sample.good else PATIENCE_S for sample in samples], 0.99)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return next((line for line in lines if "version" in line), lines[0] if lines else "unknown").strip()
