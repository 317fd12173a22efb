"""Ollama's routes: conversations, texts and vectors, and what a client asks before it begins.

The model is the one that the server was started with: nothing is pulled, made, copied or deleted here.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from boli import __version__
from boli.engine.pooling import unit
from boli.errors import BoliError
from boli.server.answer import Job
from boli.server.chat_wire import ChatRequest
from boli.server.completions_wire import CompletionRequest
from boli.server.context import Context, caller_of, context_of, request_id_of
from boli.server.embeddings import check_dimensions, embed, encode_all
from boli.server.errors import ApiError, as_api_error, invalid
from boli.server.long_lists import document, joined, long_list
from boli.server.ollama_model import described, listed, running
from boli.server.ollama_request import ChatBody, EmbedBody, GenerateBody, Generating, ShowBody
from boli.server.ollama_stream import OllamaWriter, nanoseconds, now
from boli.server.retelling import Document, retell, retold
from boli.server.sse import EventStream, until_gone
from boli.server.turns import Turn, begin
from boli.server.wire import check, read


class _Route(APIRoute):
    """Tells of errors in this API's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (ApiError, BoliError) as raised:
                error = as_api_error(raised)
                return JSONResponse(error_body(error), error.status, headers=error.headers)

        return handled


def error_body(error: ApiError) -> Document:
    """An error as Ollama writes it."""
    return {"error": error.message}


router = APIRouter(route_class=_Route)


@router.post("/api/chat")
async def chat(request: Request) -> Response:
    """Answers a conversation; without messages it says that the model is loaded."""
    context = context_of(request)
    wanted = await read(request, ChatBody)
    _check_model(context, wanted.model)
    if not wanted.messages:
        empty = {"message": {"role": "assistant", "content": ""}}
        return JSONResponse(_loaded(wanted.model) | empty)
    turn = await _begin_chat(request, wanted.chat())
    return await _reply(request, wanted, turn, OllamaWriter(wanted.model, chat=True))


@router.post("/api/generate")
async def generate(request: Request) -> Response:
    """Answers a prompt, or continues it if it is `raw` or the model knows no conversations."""
    context = context_of(request)
    wanted = await read(request, GenerateBody)
    _check_model(context, wanted.model)
    if not wanted.prompt:
        return JSONResponse(_loaded(wanted.model) | {"response": ""})
    if wanted.raw or context.llm.tokenizer.chat_template is None:
        turn = await _begin_plain(request, wanted)
    else:
        turn = await _begin_chat(request, wanted.chat())
    return await _reply(request, wanted, turn, OllamaWriter(wanted.model, chat=False))


@router.post("/api/embed")
async def embeddings(request: Request) -> Response:
    """Turns texts into vectors, as `/v1/embeddings` does with the mean."""
    start = time.perf_counter()
    context = context_of(request)
    wanted = await read(request, EmbedBody)
    _check_model(context, wanted.model)
    check_dimensions(context, wanted.dimensions)
    texts = [wanted.input] if isinstance(wanted.input, str) else wanted.input

    def encode() -> list[list[int]]:
        return encode_all(context, texts, truncate=wanted.truncate is not False)

    prompts = await context.service.in_text_thread(encode)
    job = await embed(request, prompts, "mean")
    head = {
        "model": wanted.model,
        "total_duration": nanoseconds(time.perf_counter() - start),
        "load_duration": 0,
        "prompt_eval_count": job.prompt_tokens,
    }

    def written() -> bytes:
        lists = (long_list(unit(vector, wanted.dimensions).tolist()) for vector in job.vectors)
        return document(head, embeddings=joined(lists))

    return Response(await context.service.in_text_thread(written), media_type="application/json")


@router.get("/api/tags")
async def tags(request: Request) -> Response:
    """The models that there are: one."""
    context = context_of(request)
    return JSONResponse({"models": [await context.service.in_text_thread(listed, context)]})


@router.get("/api/ps")
async def ps(request: Request) -> Response:
    """The models that are loaded: the same."""
    context = context_of(request)
    return JSONResponse({"models": [await context.service.in_text_thread(running, context)]})


@router.post("/api/show")
async def show(request: Request) -> Response:
    """What the model is."""
    context = context_of(request)
    wanted = await read(request, ShowBody)
    name = wanted.model or wanted.name
    if name is None:
        raise invalid("model: this field is needed", "model")
    _check_model(context, name)
    return JSONResponse(await context.service.in_text_thread(described, context))


@router.get("/api/version")
async def version() -> Response:
    """Boli's version, not one of Ollama's."""
    return JSONResponse({"version": __version__})


def _check_model(context: Context, name: str) -> None:
    """Refuses another model; Ollama's clients add `:latest` to names."""
    context.check_model(name.removesuffix(":latest"))


def _loaded(model: str) -> Document:
    return {"model": model, "created_at": now(), "done": True, "done_reason": "load"}


async def _begin_chat(request: Request, body: Document) -> Turn:
    return await begin(
        context_of(request), check(ChatRequest, body), caller_of(request), request_id_of(request)
    )


async def _begin_plain(request: Request, wanted: GenerateBody) -> Turn:
    context, caller = context_of(request), caller_of(request)
    if wanted.system and not wanted.raw:
        raise invalid("system: the model has no chat template that could say it", "system")
    if wanted.format:
        raise invalid("format: it goes with a chat template, and not with raw text", "format")
    body = check(CompletionRequest, wanted.plain())
    ids = await context.service.in_text_thread(context.llm.tokenizer.encode, wanted.prompt)
    params = body.params(max_tokens=body.max_tokens or context.llm.context, logprobs=body.logprobs)
    job = Job(
        prompt_ids=ids,
        params=params,
        salt=caller.salt,
        request_id=request_id_of(request),
        label=caller.label,
        text=wanted.prompt,
    )
    return Turn([await context.service.submit(job)])


async def _reply(request: Request, wanted: Generating, turn: Turn, writer: OllamaWriter) -> Response:
    context = context_of(request)
    if wanted.stream is not False:
        lines = _lines(context, wanted, turn, writer)
        return EventStream(lines, turn.cancel, media_type="application/x-ndjson")
    async with until_gone(request, turn.cancel):
        told = retold(context, turn, writer, logprobs=bool(wanted.logprobs), options=wanted.boli)
        return JSONResponse(await told)


async def _lines(
    context: Context, wanted: Generating, turn: Turn, writer: OllamaWriter
) -> AsyncIterator[bytes]:
    """Lines of JSON; there is nothing that could be sent where no token comes for long."""
    told = retell(context, turn, writer, logprobs=bool(wanted.logprobs), options=wanted.boli)
    try:
        async for lines in told:
            if lines:
                yield b"".join(_line(each) for each in lines)
    except Exception as error:  # the status has been sent: the client is told in the stream
        yield _line(error_body(as_api_error(error)))


def _line(line: Document) -> bytes:
    return (json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()
