"""`POST /v1/responses`: OpenAI's newer form of a conversation, without its memory.

Nothing is kept between requests: a client sends all that was said, as input items, each time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from boli.server.chat_wire import ChatRequest
from boli.server.context import Context, caller_of, context_of, reply_id, request_id_of
from boli.server.errors import ApiError, as_api_error
from boli.server.responses_request import ResponsesRequest
from boli.server.responses_stream import ResponseWriter
from boli.server.retelling import retell, retold
from boli.server.sse import KEEP_ALIVE, EventStream, frame, until_gone
from boli.server.turns import Turn, begin
from boli.server.wire import check, read

router = APIRouter()


@router.post("/v1/responses")
async def responses(request: Request) -> Response:
    """Answers a conversation."""
    context = context_of(request)
    wanted = await read(request, ResponsesRequest)
    context.check_model(wanted.model)
    request_id = request_id_of(request)
    turn = await begin(context, check(ChatRequest, wanted.chat()), caller_of(request), request_id)
    writer = ResponseWriter(reply_id("resp", request_id), wanted.facts(context.model))
    if wanted.stream:
        return EventStream(_frames(context, wanted, turn, writer), turn.cancel)
    async with until_gone(request, turn.cancel):
        told = retold(context, turn, writer, logprobs=wanted.wants_logprobs, options=wanted.boli)
        return JSONResponse(await told)


@router.get("/v1/responses/{identifier}")
@router.delete("/v1/responses/{identifier}")
async def kept_response(identifier: str) -> Response:
    """Says that no response is kept."""
    raise ApiError(404, f"there is no response {identifier[:100]!r}: boli keeps none", param="response_id")


async def _frames(
    context: Context, wanted: ResponsesRequest, turn: Turn, writer: ResponseWriter
) -> AsyncIterator[bytes]:
    told = retell(context, turn, writer, logprobs=wanted.wants_logprobs, options=wanted.boli)
    try:
        async for events in told:
            yield KEEP_ALIVE if events is None else b"".join(frame(each, each["type"]) for each in events)
    except Exception as error:  # the status has been sent: the client is told in the stream
        for event in writer.fail(as_api_error(error).message):
            yield frame(event, event["type"])
