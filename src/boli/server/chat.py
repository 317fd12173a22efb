"""`POST /v1/chat/completions`."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from json.encoder import encode_basestring as quote
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from boli.engine.sampling import Sampled
from boli.server.chat_wire import ChatRequest
from boli.server.context import Context, caller_of, context_of, reply_id, request_id_of
from boli.server.errors import as_api_error
from boli.server.sse import DONE, KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, frame, until_gone
from boli.server.token_text import chat_logprobs
from boli.server.tools import CallDelta
from boli.server.turns import Delta, Turn, begin
from boli.server.usage import extras, usage
from boli.server.wire import read

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answers a conversation."""
    context = context_of(request)
    wanted = await read(request, ChatRequest)
    context.check_model(wanted.model)
    request_id = request_id_of(request)
    turn = await begin(context, wanted, caller_of(request), request_id)
    writer = ChatWriter(context, wanted, turn, request_id)
    if wanted.stream:
        return EventStream(writer.frames(), turn.cancel)
    async with until_gone(request, turn.cancel):
        return JSONResponse(await writer.document())


class ChatWriter:
    """Writes a turn as OpenAI's chat completions.

    Args:
        context: Of the server.
        request: What was asked.
        turn: The answer.
        request_id: The server's own.
    """

    def __init__(self, context: Context, request: ChatRequest, turn: Turn, request_id: str) -> None:
        self._context = context
        self._tokenizer = context.llm.tokenizer
        self._request = request
        self._turn = turn
        self._logprobs = bool(request.logprobs)
        self._head: dict[str, Any] = {
            "id": reply_id("chatcmpl", request_id),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": context.model,
            "system_fingerprint": context.fingerprint,
        }

    async def document(self) -> dict[str, Any]:
        """The whole reply."""
        count = len(self._turn.answers)
        texts = [""] * count
        sampled: list[list[Sampled]] = [[] for _ in range(count)]
        calls: list[list[CallDelta]] = [[] for _ in range(count)]
        endings: list[str] = ["stop"] * count
        async for delta in self._turn:
            texts[delta.index] += delta.text
            sampled[delta.index] += delta.sampled
            calls[delta.index] += delta.calls
            endings[delta.index] = delta.finish_reason or endings[delta.index]
        choices = [
            {
                "index": index,
                "message": _message(texts[index], calls[index]),
                "logprobs": chat_logprobs(self._tokenizer, sampled[index]) if self._logprobs else None,
                "finish_reason": endings[index],
            }
            for index in range(count)
        ]
        document = {**self._head, "choices": choices, "usage": usage(self._turn.answers)}
        return document | await extras(self._context, self._request.boli, self._turn.answers)

    async def frames(self) -> AsyncIterator[bytes]:
        """The reply as server-sent events."""
        options = self._request.stream_options
        running = options is not None and options.continuous_usage_stats
        counted = options is not None and (options.include_usage or running)
        head = {**self._head, "object": "chat.completion.chunk"}
        if counted:
            head["usage"] = None
        begin = f'data: {json.dumps(head, ensure_ascii=False)[:-1]},"choices":[{{"index":'
        for index in range(len(self._turn.answers)):
            yield _chunk(begin, index, '{"role":"assistant","content":""}')
        try:
            while not self._turn.over:
                delta = await self._turn.next(KEEP_ALIVE_SECONDS)
                if delta is None:
                    if not self._turn.over:
                        yield KEEP_ALIVE
                    continue
                if running:
                    head["usage"] = usage(self._turn.answers)
                    begin = f'data: {json.dumps(head, ensure_ascii=False)[:-1]},"choices":[{{"index":'
                for body in self._chunks(begin, delta):
                    yield body
        except Exception as error:  # the status has been sent: the client is told in the stream
            yield frame(as_api_error(error).body)
            return
        last = {"usage": usage(self._turn.answers)} if counted else {}
        last |= await extras(self._context, self._request.boli, self._turn.answers)
        if last:
            yield frame({**head, "choices": [], **last})
        yield DONE

    def _chunks(self, begin: str, delta: Delta) -> list[bytes]:
        """The chunks of one delta; that with the finish reason has no content."""
        chunks: list[bytes] = []
        if delta.text or delta.sampled:
            told = "null"
            if self._logprobs:
                told = json.dumps(chat_logprobs(self._tokenizer, delta.sampled), ensure_ascii=False)
            chunks.append(_chunk(begin, delta.index, f'{{"content":{quote(delta.text)}}}', told))
        if delta.calls:
            calls = json.dumps({"tool_calls": [_call_delta(call) for call in delta.calls]})
            chunks.append(_chunk(begin, delta.index, calls))
        if delta.finish_reason is not None:
            chunks.append(_chunk(begin, delta.index, "{}", ending=f'"{delta.finish_reason}"'))
        return chunks


def _chunk(begin: str, index: int, delta: str, logprobs: str = "null", ending: str = "null") -> bytes:
    return (
        f'{begin}{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{ending}}}]}}\n\n'
    ).encode()


def _call_delta(call: CallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _message(text: str, calls: Sequence[CallDelta]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        whole: dict[int, dict[str, Any]] = {}
        for call in calls:
            known = whole.setdefault(
                call.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            known["id"] = call.id or known["id"]
            known["function"]["name"] = call.name or known["function"]["name"]
            known["function"]["arguments"] += call.arguments
        message |= {"content": text or None, "tool_calls": list(whole.values())}
    return message
