"""`POST /v1/embeddings`: a vector for each text.

A text is encoded as for a completion, with the special tokens that the model expects around it. Its vector
is the mean of what comes out of the model's final norm for all of its tokens, scaled to length 1. The
field `pooling` asks for something else than the mean: `last` takes the last token's, which models that
were tuned for embeddings often want, `first` the first one's. `dimensions` keeps the first so many numbers
and scales them to length 1 again.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Discriminator, Field, Tag
from starlette.responses import Response

from boli.engine.batch import Float32
from boli.engine.pooling import Pooling, unit
from boli.errors import BoliError
from boli.server.completions_wire import Tokens
from boli.server.context import Context, caller_of, context_of, request_id_of
from boli.server.embeddings_queue import EmbeddingJob
from boli.server.errors import ApiError, invalid
from boli.server.limits import MAX_TEXTS
from boli.server.long_lists import document, joined, long_list
from boli.server.sampling_fields import BoliOptions, Positive
from boli.server.sse import until_gone
from boli.server.wire import Name, Wire, read

router = APIRouter()

MAX_TOKENS = 300_000  # of all of them together, as OpenAI has it

Text = Annotated[str, Field(min_length=1)]


def _texts_kind(value: Any) -> str:
    """Of the four forms that texts come in, the one that a value is meant to be."""
    if not isinstance(value, list):
        return "(text)"
    first = value[0] if value else None
    return "(texts)" if isinstance(first, str) else "(lists)" if isinstance(first, list) else "(tokens)"


Texts = Annotated[
    Annotated[Text, Tag("(text)")]
    | Annotated[Tokens, Tag("(tokens)")]
    | Annotated[list[Text], Field(max_length=MAX_TEXTS), Tag("(texts)")]
    | Annotated[list[Tokens], Field(max_length=MAX_TEXTS), Tag("(lists)")],
    Discriminator(_texts_kind),
]


class EmbeddingRequest(Wire):
    """What `/v1/embeddings` takes; `pooling` and `boli` are boli's own fields."""

    tolerated = frozenset({"user"})

    model: Name | None = None
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Positive | None = None
    pooling: Pooling = "mean"
    boli: BoliOptions | None = None

    @property
    def texts(self) -> Sequence[str | list[int]]:
        """The texts, one or several."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return self.input


@router.post("/v1/embeddings")
async def embeddings(request: Request) -> Response:
    """Turns texts into vectors."""
    context = context_of(request)
    wanted = await read(request, EmbeddingRequest)
    context.check_model(wanted.model)
    check_dimensions(context, wanted.dimensions)
    prompts = await context.service.in_text_thread(encode_all, context, wanted.texts)
    job = await embed(request, prompts, wanted.pooling)
    head = {
        "object": "list",
        "model": context.model,
        "usage": {"prompt_tokens": job.prompt_tokens, "total_tokens": job.prompt_tokens},
        **({"boli": {"receipts": [job.receipt()]}} if wanted.boli and wanted.boli.receipt else {}),
    }

    def written() -> bytes:
        entries = (
            document({"object": "embedding", "index": index}, embedding=_written(vector, wanted)).decode()
            for index, vector in enumerate(job.vectors)
        )
        return document(head, data=joined(entries))

    return Response(await context.service.in_text_thread(written), media_type="application/json")


def check_dimensions(context: Context, dimensions: int | None) -> None:
    """Refuses more dimensions than the model has.

    Raises:
        ApiError: 400.
    """
    most = context.llm.blueprint.config.hidden_size
    if dimensions is not None and dimensions > most:
        raise invalid(f"dimensions: the model's vectors have {most}, not {dimensions}", "dimensions")


def encode_all(
    context: Context, texts: Sequence[str | list[int]], *, truncate: bool = False
) -> list[list[int]]:
    """The token ids of texts; takes as long as a tokenizer does.

    Args:
        context: Of the server.
        texts: Texts, or token ids, which are taken as they are.
        truncate: Whether what does not fit into the context is cut off at the end.

    Raises:
        ApiError: Together they are too long.
        BoliError: One of them cannot be computed; it is named.
    """
    prompts: list[list[int]] = []
    total = 0
    for index, text in enumerate(texts):
        try:
            ids = context.llm.tokenizer.encode(text) if isinstance(text, str) else list(text)
            if truncate:
                ids = ids[: context.llm.context - 1]
            context.llm._engine.check(ids)
        except BoliError as error:
            error.message = f"input[{index}]: {error.message}"
            raise
        total += len(ids)
        if total > MAX_TOKENS:
            raise invalid(f"input: more than {MAX_TOKENS:,} tokens in one request", "input")
        prompts.append(ids)
    return prompts


async def embed(request: Request, prompts: Sequence[Sequence[int]], pooling: Pooling) -> EmbeddingJob:
    """Computes the vectors of texts, for a client who may go away meanwhile.

    Raises:
        ApiError, BoliError: As `EmbeddingQueue.embed`.
    """
    queue = context_of(request).service.embeddings
    job = EmbeddingJob(prompts, pooling, request_id_of(request), caller_of(request).label)
    task = asyncio.create_task(queue.embed(job))
    try:
        async with until_gone(request, lambda: _cancel(task)):
            await asyncio.wait([task])
    finally:
        _cancel(task)
    if task.cancelled():
        raise ApiError(499, "the client has gone")
    task.result()
    return job


def _cancel(task: asyncio.Task[list[Float32]]) -> None:
    task.cancel()


def _written(vector: Float32, wanted: EmbeddingRequest) -> str:
    """A vector as JSON."""
    scaled = unit(vector, wanted.dimensions)
    if wanted.encoding_format == "base64":
        return f'"{base64.b64encode(scaled.astype("<f4").tobytes()).decode()}"'
    return long_list(scaled.tolist())
