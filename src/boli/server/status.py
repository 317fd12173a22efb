"""What is there and how it goes: models, health, versions."""

from __future__ import annotations

import platform
import time
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from boli import __version__
from boli.server.answer import Answer
from boli.server.context import Context, caller_of, context_of
from boli.server.embeddings_queue import EmbeddingJob
from boli.server.errors import ApiError

router = APIRouter()

_LISTED = 64  # requests


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The models that requests may name."""
    context = context_of(request)
    return {"object": "list", "data": [_model(context, name) for name in context.names]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    context = context_of(request)
    context.check_model(name)
    return _model(context, name)


def _model(context: Context, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": context.created,
        "owned_by": "boli",
        "max_model_len": context.llm.context,
    }


@router.head("/health")
@router.get("/health")
async def health(request: Request) -> Response:
    """Whether the engine's heart beats; open to everybody, so it says no more than that."""
    if context_of(request).service.trouble is not None:
        return ApiError(503, "the engine does not answer", code="unhealthy").response()
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether requests are taken."""
    service = context_of(request).service
    trouble = "the server is shutting down" if service.draining else service.trouble
    if trouble is not None:
        return ApiError(503, trouble, code="not_ready").response()
    return JSONResponse({"status": "ready"})


@router.get("/version")
async def version(request: Request) -> dict[str, Any]:
    """What runs here."""
    return {"version": __version__, "python": platform.python_version(), "model": context_of(request).model}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    return Response(context_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """What goes on, for the page: totals of everybody, and the caller's own requests."""
    context, label = context_of(request), caller_of(request).label
    numbers, service = context.service.stats(), context.service
    page_size = numbers["pages"]["size"]
    mine = [_running(answer) for answer in service.open_answers() if answer.job.label == label]
    mine += [_embedding(job, page_size) for job in service.embeddings.open_jobs if job.label == label]
    return {
        **numbers,
        "tokens_per_s": context.metrics.rate(),
        "generated_tokens": context.metrics.generated_tokens,
        "prompt_tokens": context.metrics.prompt_tokens,
        "cached_tokens": context.metrics.cached_tokens,
        "embedding_tokens": context.metrics.embedding_tokens,
        "model": context.model,
        "context": context.llm.context,
        "trace": context.settings.trace,
        "requests": mine[:_LISTED],
        "recent": list(islice(context.recent.listed(label), _LISTED)),
    }


def _running(answer: Answer) -> dict[str, Any]:
    request = answer.request
    return {
        "kind": "answer",
        "id": answer.job.request_id,
        "choice": answer.job.choice,
        "state": "waiting" if request is None else request.state,
        "age_s": time.perf_counter() - answer.submitted,
        "prompt_tokens": answer.prompt_tokens,
        "computed_tokens": 0 if request is None else request.computed,
        "cached_tokens": answer.cached_tokens,
        "generated_tokens": answer.completion_tokens,
        "pages": 0 if request is None else len(request.table),
        "why_waited": "" if request is None else str(request.waits),
    }


def _embedding(job: EmbeddingJob, page_size: int) -> dict[str, Any]:
    return {
        "kind": "embedding",
        "id": job.request_id,
        "choice": 0,
        "state": job.state,
        "age_s": time.perf_counter() - job.submitted,
        "prompt_tokens": job.prompt_tokens,
        "computed_tokens": job.computed_tokens,
        "cached_tokens": 0,
        "generated_tokens": 0,
        "pages": job.pages(page_size),
        "why_waited": str(job.waits),
    }
