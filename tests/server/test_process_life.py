"""The server as a process: how it starts, and how it ends whatever it is doing; nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cli.shell import PATIENCE, start
from server.running import until
from server.tiny_server import CONTEXT, tiny_folder

LONG = {"prompt": "go on", "max_tokens": 240, "temperature": 0, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


class Process:
    """A `boli serve` that was started."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = start(
            "serve", str(folder), "--port", "0", "--context", str(CONTEXT), "--threads", "1", *options
        )
        self.url = ""
        self.words: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.words.append(line.decode())
            found = re.search(r"served at (http://\S+)/v1", self.words[-1])
            if found:
                self.url = found[1]

    def ready(self) -> httpx.Client:
        """Waits until it takes requests; the client has to be closed."""
        end = time.monotonic() + PATIENCE
        while not self.url:
            assert self.process.poll() is None, self.words
            assert time.monotonic() < end, self.words
            time.sleep(0.01)
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def end(self, by: signal.Signals | None = None) -> int:
        """Sends a signal and waits for the end; no child may be left."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        if by is not None:
            self.process.send_signal(by)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive, "children are left"
        return code

    def close(self) -> None:
        """Whatever happened, it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Process]:
    server = Process(folder, *options)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_and_ends_again_and_again(folder: Path, by: signal.Signals) -> None:
    for _ in range(2):
        with serving(folder) as server, server.ready() as client:
            asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
            assert client.post("/v1/chat/completions", json=asked).status_code == 200
            assert server.end(by) == 0
            assert not any("Traceback" in line for line in server.words), server.words


def drained(folder: Path, timeout: str) -> tuple[list[str], int, float]:
    """Ends a server with three streams; their last lines, the exit code, and how long it took."""
    with serving(folder, "--shutdown-timeout", timeout) as server, server.ready() as client:
        lasts: list[str] = []
        begun = threading.Barrier(4)

        def one(number: int) -> None:
            last, first = "", True
            with client.stream("POST", "/v1/completions", json={**LONG, "prompt": f"{number}"}) as reply:
                for line in reply.iter_lines():
                    if first:
                        begun.wait(PATIENCE)
                        first = False
                    last = line or last
            lasts.append(last)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        begun.wait(PATIENCE)
        start = time.monotonic()
        code = server.end(signal.SIGTERM)
        took = time.monotonic() - start
        for thread in threads:
            thread.join()
    return lasts, code, took


def test_running_answers_come_to_their_end(folder: Path) -> None:
    lasts, code, _ = drained(folder, "60")
    assert lasts == ["data: [DONE]"] * 3
    assert code == 0


def test_what_takes_too_long_is_told_and_ended(folder: Path) -> None:
    lasts, code, took = drained(folder, "0")
    assert took < 20.0
    for last in lasts:
        assert last == "data: [DONE]" or "shutting_down" in last
    assert code == 0


def test_ctrl_c_while_a_prompt_is_read(folder: Path) -> None:
    with serving(folder, "--shutdown-timeout", "0") as server, server.ready() as client:
        replies: list[Any] = []

        def ask() -> None:
            asked = {"prompt": "x" * 200, "max_tokens": 50, "ignore_eos": True}
            try:
                replies.append(client.post("/v1/completions", json=asked))
            except httpx.HTTPError as error:
                replies.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        assert server.end(signal.SIGINT) == 0
        for thread in threads:
            thread.join()
        for reply in replies:
            assert isinstance(reply, httpx.HTTPError) or reply.status_code in (200, 503)


def test_a_second_ctrl_c_ends_it_at_once(folder: Path) -> None:
    with serving(folder, "--shutdown-timeout", "60") as server, server.ready() as client:
        with client.stream("POST", "/v1/completions", json={**LONG, "n": 4}) as reply:
            lines = reply.iter_lines()
            next(lines)
            os.kill(server.process.pid, signal.SIGINT)
            time.sleep(0.01)
            code = server.end(signal.SIGINT)
        assert code in (0, 130)  # it may have come to its end in between


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_ctrl_c_while_it_loads(folder: Path, after: float) -> None:
    with serving(folder) as server:
        maps = Path(f"/proc/{server.process.pid}/maps")
        until(lambda: "numpy" in maps.read_text())  # Python is up, and boli reads its parts
        time.sleep(after)
        code = server.end(signal.SIGINT)
        assert code in (0, 130, -signal.SIGINT), server.words
        assert not any("Traceback" in line for line in server.words), server.words


def test_a_taken_port_and_an_open_door_are_refused(folder: Path) -> None:
    with serving(folder) as server, server.ready() as client:
        port = str(client.base_url.port)
        with serving(folder, "--port", port) as second:
            assert second.end() == 2
            assert any("cannot listen" in line for line in second.words)
        with serving(folder, "--host", "0.0.0.0") as public:
            assert public.end() == 2
            assert any("API key" in line for line in public.words)
        assert server.end(signal.SIGTERM) == 0


def test_a_stopped_process_goes_on_where_it_was(folder: Path) -> None:
    """As a laptop that slept: the clock has moved, and nothing else."""
    with serving(folder) as server, server.ready() as client:
        with client.stream("POST", "/v1/completions", json=LONG) as reply:
            lines = reply.iter_lines()
            first = next(lines)
            os.kill(server.process.pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.kill(server.process.pid, signal.SIGCONT)
            rest = [first, *[line for line in lines if line]]
        assert rest[-1] == "data: [DONE]"
        said = "".join(json.loads(line[6:])["choices"][0]["text"] for line in rest[:-1])
        asked = {**LONG, "stream": False}
        assert client.post("/v1/completions", json=asked).json()["choices"][0]["text"] == said
        assert client.get("/health").status_code == 200
        assert server.end(signal.SIGTERM) == 0


def test_few_descriptors_are_an_error_for_some_and_no_end(folder: Path) -> None:
    with serving(folder) as server, server.ready() as client:
        most = psutil.Process(server.process.pid).num_fds() + 12
        subprocess.run(
            ["prlimit", f"--pid={server.process.pid}", f"--nofile={most}:{most}"],
            check=True,
            timeout=PATIENCE,
        )
        many = [httpx.Client(base_url=server.url, timeout=3, trust_env=False) for _ in range(40)]
        statuses = []
        for each in many:
            try:
                statuses.append(each.get("/health").status_code)
            except httpx.HTTPError:
                statuses.append(0)
        for each in many:
            each.close()
        assert statuses.count(200) >= 8
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if client.get("/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        else:
            raise AssertionError("it does not answer any more")
        assert server.end(signal.SIGTERM) == 0
