"""The end of a server: a real process, signals, and streams that are in flight."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from boli.server.protocol import HEADER_SECONDS
from server.running import PATIENCE, until
from server.tiny_server import tiny_folder

ASK: dict[str, Any] = {"prompt": "hello", "max_tokens": 200, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


class Process:
    """`boli serve` as a user runs it."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "boli", "serve", str(folder), "--port", "0", "--context", "256"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BOLI_")}
        self.popen = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        until(lambda: self.url is not None or self.popen.poll() is not None)
        assert self.popen.poll() is None, self.lines

    def _read(self) -> None:
        assert self.popen.stderr is not None
        self.lines.extend(self.popen.stderr)

    @property
    def url(self) -> str | None:
        """Where it says that it is."""
        found = re.search(r"served at (http://[^ ]+)/v1", "".join(self.lines.copy()))
        return found and found[1]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url or "", timeout=PATIENCE, trust_env=False)

    def children(self) -> list[int]:
        """Processes that it has started, such as the one that renders templates."""
        listed = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return [int(each) for each in listed]

    def end(self) -> int:
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@contextmanager
def process(folder: Path, *options: str) -> Iterator[Process]:
    made = Process(folder, *options)
    try:
        yield made
    finally:
        if made.popen.poll() is None:
            made.popen.kill()
        made.end()
        for pipe in (made.popen.stdout, made.popen.stderr):
            assert pipe is not None
            pipe.close()


def stream(here: Process, begun: threading.Barrier, **wish: Any) -> str:
    """Reads a stream to its end; the barrier is passed when its first token is there."""
    with (
        here.client() as client,
        client.stream("POST", "/v1/completions", json=ASK | {"stream": True} | wish) as reply,
    ):
        text = ""
        for line in reply.iter_lines():
            if not text:
                begun.wait(PATIENCE)
            text += line + "\n"
        return text


def test_sigterm_lets_streams_end_and_takes_no_more(folder: Path) -> None:
    with process(folder, "--shutdown-timeout", "60") as here, ThreadPoolExecutor(10) as pool:
        begun = threading.Barrier(11)
        runs = [pool.submit(stream, here, begun) for _ in range(10)]
        begun.wait(PATIENCE)
        children = here.children()
        here.popen.send_signal(signal.SIGTERM)
        texts = [each.result() for each in runs]
        assert here.end() == 0
        assert all(text.endswith("data: [DONE]\n\n") for text in texts)
        assert len(set(map(_said, texts))) == 1
        with pytest.raises(httpx.TransportError), here.client() as client:
            client.get("/health")
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def _said(text: str) -> str:
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(each["choices"][0]["text"] for each in frames)


def test_what_takes_too_long_is_ended_with_an_error(folder: Path) -> None:
    with process(folder, "--shutdown-timeout", "0") as here, ThreadPoolExecutor(4) as pool:
        begun = threading.Barrier(5)
        runs = [pool.submit(stream, here, begun, n=8) for _ in range(4)]
        begun.wait(PATIENCE)
        here.popen.send_signal(signal.SIGTERM)
        texts = [each.result() for each in runs]
        assert here.end() == 0
        for text in texts:
            last = text.strip().rsplit("data: ", 1)[-1]
            assert last == "[DONE]" or json.loads(last)["error"]["code"] == "shutting_down"


def test_sigterm_lets_embeddings_end(folder: Path) -> None:
    with process(folder, "--shutdown-timeout", "60") as here, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_embed, here, ["x" * 200] * 300)
        with here.client() as client:
            until(lambda: client.get("/stats").json()["running"] == 1)
        here.popen.send_signal(signal.SIGTERM)
        reply = asked.result()
        assert here.end() == 0
        assert reply.status_code == 200
        assert len(reply.json()["data"]) == 300


def _embed(here: Process, texts: list[str]) -> httpx.Response:
    with here.client() as client:
        return client.post("/v1/embeddings", json={"input": texts})


def test_a_second_ctrl_c_ends_at_once(folder: Path) -> None:
    with process(folder, "--shutdown-timeout", "600") as here, ThreadPoolExecutor(1) as pool:
        begun = threading.Barrier(2)
        run = pool.submit(_cut_off, here, begun)
        begun.wait(PATIENCE)
        here.popen.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert here.popen.poll() is None
        start = time.monotonic()
        here.popen.send_signal(signal.SIGINT)
        assert here.end() == 130
        assert time.monotonic() - start < HEADER_SECONDS
        run.result()


def _cut_off(here: Process, begun: threading.Barrier) -> None:
    try:
        stream(here, begun, n=16, prompt=["a", "b", "c", "d", "e"])
    except httpx.TransportError:
        return


def test_a_quiet_server_ends_at_once_and_says_what_it_is(folder: Path) -> None:
    with process(folder, "--log-format", "json") as here:
        with here.client() as client:
            client.post("/v1/completions", json=ASK | {"max_tokens": 3, "prompt": "a canary"})
        here.popen.send_signal(signal.SIGINT)
        assert here.end() == 0
        said = "".join(here.lines)
        assert "memory: " in said
        assert "curl http://127.0.0.1:" in said
        events = [json.loads(line) for line in here.lines if line.startswith("{")]
        assert [each["event"] for each in events if each["event"] == "answer"] == ["answer"]
        assert next(each for each in events if each["event"] == "http")["status"] == 200
        assert "canary" not in said
