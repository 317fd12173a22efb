"""`POST /v1/completions`."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from json.encoder import encode_basestring as quote
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from boli.engine.constraint import Constraint
from boli.engine.sampling import Sampled
from boli.server.answer import Answer, Job
from boli.server.completions_wire import CompletionRequest
from boli.server.context import Caller, Context, caller_of, context_of, reply_id, request_id_of
from boli.server.errors import as_api_error
from boli.server.formats import constraint_for
from boli.server.sampling_fields import varied
from boli.server.sse import DONE, KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, frame, until_gone
from boli.server.token_text import TextLogprobs
from boli.server.turns import Delta, Turn
from boli.server.usage import extras, usage
from boli.server.wire import read

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """Continues texts."""
    context = context_of(request)
    wanted = await read(request, CompletionRequest)
    context.check_model(wanted.model)
    prompts = await context.service.in_text_thread(_encode, context, wanted)
    request_id = request_id_of(request)
    constraint = await context.in_grammar_thread(constraint_for, wanted, context.grammars)
    jobs = _jobs(context, wanted, prompts, constraint, caller_of(request), request_id)
    turn = Turn(await context.service.submit_all(jobs))
    writer = CompletionWriter(context, wanted, prompts, turn, request_id)
    if wanted.stream:
        return EventStream(writer.frames(), turn.cancel)
    async with until_gone(request, turn.cancel):
        return JSONResponse(await writer.document())


def _encode(context: Context, wanted: CompletionRequest) -> list[list[int]]:
    tokenizer = context.llm.tokenizer
    special = wanted.add_special_tokens is not False
    return [
        tokenizer.encode(prompt, add_special_tokens=special) if isinstance(prompt, str) else prompt
        for prompt in wanted.prompts
    ]


def _jobs(
    context: Context,
    wanted: CompletionRequest,
    prompts: list[list[int]],
    constraint: Constraint | None,
    caller: Caller,
    request_id: str,
) -> list[Job]:
    logprobs = wanted.logprobs
    if logprobs is None and wanted.attempts > wanted.choices:
        logprobs = 0  # to find the best
    # A reply without a new token still needs one step.
    most = max(1, 16 if wanted.max_tokens is None else wanted.max_tokens)
    params = wanted.params(max_tokens=min(most, context.llm.context), logprobs=logprobs)
    return [
        Job(
            prompt_ids=ids,
            params=each,
            salt=caller.salt,
            request_id=request_id,
            choice=index * wanted.attempts + choice,
            label=caller.label,
            constraint=constraint,
            prompt_logprobs=wanted.logprobs if wanted.echo else None,
            text=given if isinstance(given, str) else None,
        )
        for index, (given, ids) in enumerate(zip(wanted.prompts, prompts, strict=True))
        for choice, each in enumerate(varied(params, wanted.attempts))
    ]


class CompletionWriter:
    """Writes answers as OpenAI's completions.

    Args:
        context: Of the server.
        request: What was asked.
        prompts: Its prompts as token ids.
        turn: The answers, `request.attempts` for each prompt.
        request_id: The server's own.
    """

    def __init__(
        self,
        context: Context,
        request: CompletionRequest,
        prompts: list[list[int]],
        turn: Turn,
        request_id: str,
    ) -> None:
        self._context = context
        self._tokenizer = context.llm.tokenizer
        self._request = request
        self._prompts = prompts
        self._turn = turn
        self._silent = request.max_tokens == 0
        self._head: dict[str, Any] = {
            "id": reply_id("cmpl", request_id),
            "object": "text_completion",
            "created": int(time.time()),
            "model": context.model,
            "system_fingerprint": context.fingerprint,
        }

    async def document(self) -> dict[str, Any]:
        """The whole reply."""
        answers, attempts = self._turn.answers, self._request.attempts
        texts = [self._echo(index // attempts) for index in range(len(answers))]
        sampled: list[list[Sampled]] = [[] for _ in answers]
        endings = ["stop"] * len(answers)
        async for delta in self._turn:
            if not self._silent:
                texts[delta.index] += delta.text
                sampled[delta.index] += delta.sampled
            endings[delta.index] = delta.finish_reason or endings[delta.index]
        if self._silent:
            endings = ["length"] * len(answers)
        choices: list[dict[str, Any]] = []
        for first in range(0, len(answers), attempts):
            for index in self._best(sampled, range(first, first + attempts)):
                told = None
                if self._request.logprobs is not None:
                    told = self._logprobs(answers[index]).add(sampled[index])
                choices.append({
                    "index": len(choices),
                    "text": texts[index],
                    "logprobs": told,
                    "finish_reason": endings[index],
                })  # fmt: skip
        document = {**self._head, "choices": choices, "usage": self._usage()}
        return document | await self._extras()

    async def frames(self) -> AsyncIterator[bytes]:
        """The reply as server-sent events."""
        options = self._request.stream_options
        running = options is not None and options.continuous_usage_stats
        counted = options is not None and (options.include_usage or running)
        head = {**self._head, "usage": None} if counted else self._head
        begin = _begin(head)
        told: dict[int, TextLogprobs] = {}
        try:
            while not self._turn.over:
                delta = await self._turn.next(KEEP_ALIVE_SECONDS)
                if delta is None:
                    if not self._turn.over:
                        yield KEEP_ALIVE
                    continue
                if running:
                    begin = _begin({**self._head, "usage": self._usage()})
                yield self._chunk(begin, delta, told)
        except Exception as error:  # the status has been sent: the client is told in the stream
            yield frame(as_api_error(error).body)
            return
        last = {"usage": self._usage()} if counted else {}
        last |= await self._extras()
        if last:
            yield frame({**self._head, "choices": [], **last})
        yield DONE

    def _chunk(self, begin: str, delta: Delta, told: dict[int, TextLogprobs]) -> bytes:
        """The chunk of a delta; the first of a choice has the prompt, if that is to be echoed."""
        text, sampled, ending = delta.text, delta.sampled, delta.finish_reason
        if self._silent:
            text, sampled, ending = "", (), ending and "length"
        logprobs = "null"
        first = delta.index not in told
        if first:
            told[delta.index] = self._logprobs(self._turn.answers[delta.index])
            text = self._echo(delta.index // self._request.attempts) + text
        if self._request.logprobs is not None:
            logprobs = json.dumps(told[delta.index].add(sampled), ensure_ascii=False)
        reason = "null" if ending is None else f'"{ending}"'
        return (
            f'{begin}{delta.index},"text":{quote(text)},"logprobs":{logprobs},"finish_reason":{reason}}}]}}\n\n'
        ).encode()

    def _echo(self, prompt: int) -> str:
        if not self._request.echo:
            return ""
        given = self._request.prompts[prompt]
        return given if isinstance(given, str) else self._tokenizer.decode(given)

    def _logprobs(self, answer: Answer) -> TextLogprobs:
        """A writer of log-probabilities; it begins with those of the prompt, if that is echoed."""
        writer = TextLogprobs(self._tokenizer)
        if self._request.echo and answer.request is not None:
            writer.begin(answer.job.prompt_ids, answer.request.prompt_scores)
        return writer

    def _best(self, sampled: Sequence[Sequence[Sampled]], indices: range) -> list[int]:
        """The answers of a prompt that are wanted, the likeliest first if there are more."""
        if self._request.attempts == self._request.choices:
            return list(indices)

        def likelihood(index: int) -> float:
            values = [each.logprob or 0.0 for each in sampled[index]]
            return sum(values) / max(1, len(values))

        return sorted(indices, key=likelihood, reverse=True)[: self._request.choices]

    async def _extras(self) -> dict[str, Any]:
        return await extras(self._context, self._request.boli, self._turn.answers)

    def _usage(self) -> dict[str, Any]:
        counted = usage(self._turn.answers, prompts=len(self._prompts))
        if self._silent:
            counted |= {"completion_tokens": 0, "total_tokens": counted["prompt_tokens"]}
        return counted


def _begin(head: dict[str, Any]) -> str:
    return f'data: {json.dumps(head, ensure_ascii=False)[:-1]},"choices":[{{"index":'
