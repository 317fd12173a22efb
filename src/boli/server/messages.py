"""`POST /v1/messages`: Anthropic's form of a conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from boli.errors import BoliError
from boli.server.chat_wire import ChatRequest
from boli.server.context import Context, caller_of, context_of, reply_id, request_id_of
from boli.server.errors import ApiError, as_api_error
from boli.server.messages_request import CountRequest, MessagesRequest
from boli.server.messages_stream import MessageWriter
from boli.server.retelling import Document, retell, retold
from boli.server.sse import EventStream, frame, until_gone
from boli.server.turns import Turn, begin, prompt_of
from boli.server.wire import check, read

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError, request_id: str) -> Document:
    """An error as Anthropic's API writes it."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": request_id,
    }


class _Route(APIRoute):
    """Tells of errors in this API's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (ApiError, BoliError) as raised:
                error = as_api_error(raised)
                body = error_body(error, request_id_of(request))
                return JSONResponse(body, error.status, headers=error.headers)

        return handled


router = APIRouter(route_class=_Route)


@router.post("/v1/messages")
async def messages(request: Request) -> Response:
    """Answers a conversation."""
    context = context_of(request)
    wanted = await read(request, MessagesRequest)
    context.check_model(wanted.model)
    request_id = request_id_of(request)
    turn = await begin(context, check(ChatRequest, wanted.chat()), caller_of(request), request_id)
    writer = MessageWriter(reply_id("msg", request_id), context.model, turn.answers[0].prompt_tokens)
    if wanted.stream:
        return EventStream(_frames(context, wanted, turn, writer, request_id), turn.cancel)
    async with until_gone(request, turn.cancel):
        return JSONResponse(await retold(context, turn, writer, options=wanted.boli))


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """Counts what a conversation has as a prompt."""
    context = context_of(request)
    wanted = await read(request, CountRequest)
    context.check_model(wanted.model)
    ids = await prompt_of(context, check(ChatRequest, wanted.chat()))
    return JSONResponse({"input_tokens": len(ids)})


async def _frames(
    context: Context, wanted: MessagesRequest, turn: Turn, writer: MessageWriter, request_id: str
) -> AsyncIterator[bytes]:
    try:
        async for events in retell(context, turn, writer, options=wanted.boli):
            told = [{"type": "ping"}] if events is None else events
            yield b"".join(frame(each, each["type"]) for each in told)
    except Exception as error:  # the status has been sent: the client is told in the stream
        yield frame(error_body(as_api_error(error), request_id), "error")
