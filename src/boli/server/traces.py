"""`POST /trace`: looks into a recent answer of the same key, by running its tokens again."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from boli.engine.record import RunRecord
from boli.server.context import Context, caller_of, context_of
from boli.server.errors import ApiError, overloaded
from boli.server.sampling_fields import Count
from boli.server.wire import Name, Wire, read

router = APIRouter()


class TraceRequest(Wire):
    """Which answer, and how much of it."""

    id: Name
    choice: Count = 0
    detail: Literal["summary", "rows", "full"] = "rows"


@router.post("/trace")
async def trace(request: Request) -> Response:
    """The trace of an answer, as `docs/trace-schema.md` describes it."""
    context = context_of(request)
    wanted = await read(request, TraceRequest)
    if not context.settings.trace:
        raise ApiError(404, "answers are not kept: start the server with --trace", code="trace_disabled")
    record = context.recent.find(caller_of(request).label, wanted.id, wanted.choice)
    if record is None:
        raise ApiError(
            404,
            f"there is no recent answer {wanted.id!r}, choice {wanted.choice}; "
            "the latest are kept until others come",
            param="id",
        )
    if context.tracing.locked():  # a trace takes memory and many steps
        raise overloaded(1, 2)
    async with context.tracing:
        body = await asyncio.to_thread(_traced, context, record, wanted)
    return Response(body, media_type="application/json")


def _traced(context: Context, record: RunRecord, wanted: TraceRequest) -> bytes:
    document = context.llm.replay(record, detail=wanted.detail).document()
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
