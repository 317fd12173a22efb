"""The servers that are compared, as processes; only the one whose turn it is runs."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from load.client import Place

import boli

Name = Literal["boli", "llama-server"]

PATIENCE_S = 120.0  # for a server to become ready; the first start compiles kernels


class ServerError(Exception):
    """A server did not start, or ended."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a server is started.

    Attributes:
        model: A GGUF file.
        threads: How many compute.
        streams: How many answers it can write at once.
        context: Tokens of prompt and answer of each.
        queue: How many requests may wait; None leaves it to the server.
    """

    model: Path
    threads: int
    streams: int = 16
    context: int = 1024
    queue: int | None = None

    @property
    def kv_cache_bytes(self) -> int:
        """What boli's cache takes for as many positions as llama-server's: `context` for each stream."""
        account = boli.weigh(str(self.model), context=self.context, requests=self.streams)
        return int(account.kv.bytes.value)


def boli_command(setting: Setting, port: int) -> list[str]:
    """How boli is started. Its engine always runs up to 16 answers at once."""
    queue = [] if setting.queue is None else ["--max-queue", str(setting.queue)]
    return [
        *(sys.executable, "-m", "boli", "serve", str(setting.model), "--host", "127.0.0.1"),
        *("--port", str(port), "--threads", str(setting.threads), "--context", str(setting.context)),
        *("--kv-cache-bytes", str(setting.kv_cache_bytes), *queue),
    ]


def llama_command(program: str, setting: Setting, port: int, flash: str) -> list[str]:
    """How llama-server is started: a slot with a cache of its own for each stream."""
    return [
        *(program, "-m", str(setting.model), "--host", "127.0.0.1", "--port", str(port)),
        *("-t", str(setting.threads), "-tb", str(setting.threads), "-fa", flash, "--log-disable"),
        *("-np", str(setting.streams), "-c", str(setting.streams * setting.context)),
    ]


class Server:
    """A server that was started and is ready.

    Args:
        name: Which.
        command: How it is started.
        port: Where it listens.

    Attributes:
        ready_s: From the start of its process until it was ready, seconds.
        place: Where it listens.

    Raises:
        ServerError: It did not become ready; its last words are in the message.
    """

    def __init__(self, name: Name, command: list[str], port: int) -> None:
        self.name, self.place = name, Place("127.0.0.1", port)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the server
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not self._answers():
                self._check(time.perf_counter() - start)
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise
        self.ready_s = time.perf_counter() - start

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        path = "/ready" if self.name == "boli" else "/health"
        connection = http.client.HTTPConnection(self.place.host, self.place.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _check(self, waited: float) -> None:
        if self._process.poll() is not None or waited > PATIENCE_S:
            raise ServerError(f"{self.name} did not become ready: {self.words()}")

    def words(self) -> str:
        """The last of what it wrote."""
        self._words.seek(0)
        return self._words.read().decode(errors="replace")[-2000:]

    def stop(self) -> None:
        """Lets it sleep while it is not its turn."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Wakes it.

        Raises:
            ServerError: It has ended.
        """
        if self._process.poll() is not None:
            raise ServerError(f"{self.name} ended with code {self._process.returncode}: {self.words()}")
        os.killpg(self._process.pid, signal.SIGCONT)

    def resident(self) -> int:
        """Bytes of resident memory, with those of its children."""
        return sum(_resident(pid) for pid in _family(self._process.pid))

    def close(self) -> None:
        """Ends it, and waits for that."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._words.close()


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    except OSError:  # it has just ended
        pass
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
