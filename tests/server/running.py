"""A whole server in this process: real sockets, real HTTP, a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from boli.engine.llm import LLM
from boli.server.context import Context
from boli.server.run import Server, bind, loop_factory, serve
from boli.server.service import Service
from boli.server.settings import Settings
from engine.toy_llm import toy_llm

PATIENCE = 60.0  # seconds for anything; other work may have the processor
NAP = 0.005

T = TypeVar("T")


@dataclass
class Running:
    """A server that takes requests.

    Attributes:
        llm: Its model.
        port: Where it listens on the loopback.
        context: The parts that its routes share.
        loop: Of its thread.
        app: The application.
    """

    llm: LLM
    port: int
    context: Context
    loop: asyncio.AbstractEventLoop
    app: FastAPI

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def service(self) -> Service:
        """The way to its engine."""
        return self.context.service

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def client(self, **settings: Any) -> httpx.Client:
        """A plain HTTP client; close it."""
        return httpx.Client(**{"base_url": self.url, "timeout": PATIENCE, "trust_env": False, **settings})

    def busy(self) -> tuple[int, int, int]:
        """Requests that are open, in the engine, and pages that are in use."""
        stats, scheduler = self.service.stats(), self.llm._engine.scheduler
        return stats["open"], len(scheduler.running) + len(scheduler.waiting), stats["pages"]["used"]

    def settled(self, patience: float = PATIENCE) -> None:
        """Waits until nobody is served and every page is accounted for."""
        until(lambda: self.busy() == (0, 0, 0), patience)
        pool = self.llm._engine.scheduler.pool
        assert pool.free + pool.cached == pool.num_pages


def until(done: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Waits for something to become true.

    Args:
        done: Whether it is.
        patience: Seconds, counted in naps: time in which this process was not let run is not counted.
    """
    for _ in range(round(patience / NAP)):
        if done():
            return
        time.sleep(NAP)
    raise AssertionError("it does not come true")


@contextmanager
def running(llm: LLM, **settings: Any) -> Iterator[Running]:
    """Serves a model until the block ends; at the end nothing may be left of any request."""
    begun: list[tuple[Server, asyncio.AbstractEventLoop]] = []
    wished = Settings(**{"port": 0, "shutdown_timeout": 1.0, **settings})
    bound = bind("127.0.0.1", 0)

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            loop = runner.get_loop()
            runner.run(serve(llm, wished, bound, ready=lambda server: begun.append((server, loop))))

    thread = threading.Thread(target=run, name="server")
    thread.start()
    until(lambda: bool(begun) or not thread.is_alive())
    assert begun, "the server did not start"
    server, loop = begun[0]
    app = server.config.app
    assert isinstance(app, FastAPI)
    here = Running(llm, bound.getsockname()[1], app.state.context, loop, app)
    try:
        yield here
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()
    pool = llm._engine.scheduler.pool
    assert (pool.used, pool.free + pool.cached) == (0, pool.num_pages)


@contextmanager
def toy_server(folder: Path, *, server: dict[str, Any] | None = None, **toy: Any) -> Iterator[Running]:
    """A server of the toy model, whose answers are known.

    Args:
        folder: For its tokenizer.
        server: Settings of the server.
        toy: Of the model, as `toy_llm` takes them.
    """
    with toy_llm(folder, **toy) as llm, running(llm, **(server or {})) as here:
        yield here
