"""The application: who may ask, what there is to ask for, and how errors look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from boli import __version__
from boli.server import (
    chat,
    completions,
    embeddings,
    errors,
    messages,
    ollama,
    openapi,
    responses,
    status,
    tokens,
    traces,
)
from boli.server.auth import OPEN_PATHS, Hosts, Keyring
from boli.server.context import Context
from boli.server.gate import Gate
from boli.server.pages import Pages
from boli.server.service import Service
from boli.server.settings import Settings
from boli.server.sockets import is_loopback

if TYPE_CHECKING:
    from boli.engine.llm import LLM


def create_app(llm: LLM, settings: Settings) -> FastAPI:
    """The application of one loaded model, which stays the caller's to close.

    Args:
        llm: The model.
        settings: How the server is set up.
    """
    service = Service(
        llm,
        max_queue=settings.max_queue,
        stall_seconds=settings.stall_timeout,
        stream_interval=settings.stream_interval,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if llm.tokenizer.chat_template is not None:
            llm.tokenizer.chat_template.warm_up()
        try:
            yield
        finally:
            await service.close()
            context.close()

    app = FastAPI(title="boli", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.context = context = Context(llm, service, settings)
    errors.install(app)
    # A key keeps pages of other sites out by itself, wherever the server is called from.
    public = not is_loopback(settings.host)
    pages = Pages()
    app.add_middleware(
        Gate,
        keyring=Keyring(settings.api_key),
        hosts=Hosts(settings.allowed_hosts, everywhere=public and bool(settings.api_key)),
        open_paths=OPEN_PATHS | pages.paths,
        origins=settings.allowed_origins,
        on_status=lambda status: context.metrics.statuses.update((status,)),
    )
    app.include_router(pages.router())
    for module in (status, chat, completions, responses, embeddings, messages, ollama, tokens, traces):
        app.include_router(module.router)
    openapi.install(app)
    return app
