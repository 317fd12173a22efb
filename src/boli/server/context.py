"""What a route needs: the model, the service, the settings, and who asks."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request

from boli import __version__
from boli.engine.record import Origin
from boli.server.answer import Answer
from boli.server.embeddings_queue import EmbeddingJob
from boli.server.errors import ApiError, as_api_error
from boli.server.metrics import Metrics
from boli.server.receipts import Receipts, summary
from boli.server.recent import Recent
from boli.server.service import Service
from boli.server.settings import Settings

if TYPE_CHECKING:
    from boli.engine.grammar import Grammars
    from boli.engine.llm import LLM

log = logging.getLogger("boli.server")

GRAMMAR_THREADS = 2  # one compiles, and what is compiled already does not wait for it

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        label: The name of the key for logs, never the key.
        salt: What one key's requests have computed is not used for another's.
    """

    label: str
    salt: bytes | None


ANYBODY = Caller("-", None)


@dataclass
class Context:
    """The server's parts.

    Attributes:
        llm: The model.
        service: The way to the engine.
        settings: As it was started.
        names: What the model may be called in a request; the first is what replies say.
        created: When the server started.
        metrics: What is counted.
        receipts: Writes what an answer took.
        recent: The latest answers.
        tracing: Held by the one trace that is made at a time.
        grammars: Compiles what answers must be.
        fingerprint: The same for as long as the same request gives the same answer.
    """

    llm: LLM
    service: Service
    settings: Settings
    names: tuple[str, ...] = ()
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    metrics: Metrics = field(init=False)
    receipts: Receipts = field(init=False)
    recent: Recent = field(init=False)
    tracing: asyncio.Lock = field(default_factory=asyncio.Lock)
    grammars: Grammars = field(init=False)
    _grammar_threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.names = self.settings.served_model_names or _names_of(self.llm)
        facts = (__version__, self.llm.name, self.llm.weights, self.llm.kv_cache_type)
        self.fingerprint = "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
        self.metrics = Metrics(self.service, self.model)
        self.receipts = Receipts(self.llm, self.service)
        origin = Origin(model=self.llm.identity, load_s=self.llm.load_seconds)
        self.recent = Recent(origin, replayable=self.settings.trace)
        self.grammars = self.llm.grammars
        self._grammar_threads = ThreadPoolExecutor(GRAMMAR_THREADS, "boli-grammar")
        self._grammar_threads.submit(self.grammars.prepare)
        self.service.on_end.append(self._ended)
        self.service.embeddings.on_end.append(self._embedded)

    def close(self) -> None:
        """Lets the threads end."""
        self._grammar_threads.shutdown(wait=False, cancel_futures=True)

    async def in_grammar_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Runs what may compile a stranger's grammar; tokenizers must not wait for that."""
        return await asyncio.get_running_loop().run_in_executor(self._grammar_threads, work, *arguments)

    def _ended(self, answer: Answer) -> None:
        self.recent.add(answer)
        error = None if answer.request is None else answer.request.error
        if error is not None and as_api_error(error).status >= 500:
            log.error("answer failed", exc_info=error, extra={"fields": {"id": answer.job.request_id}})
        if log.isEnabledFor(logging.INFO):
            log.info("answer", extra={"fields": _logged(answer)})

    def _embedded(self, job: EmbeddingJob) -> None:
        self.recent.add_embeddings(job)
        error = job.trouble
        if error is not None and as_api_error(error).status >= 500:
            log.error("embedding failed", exc_info=error, extra={"fields": {"id": job.request_id}})
        if log.isEnabledFor(logging.INFO):
            log.info("embedding", extra={"fields": _logged_embeddings(job)})

    @property
    def model(self) -> str:
        """What replies call the model."""
        return self.names[0]

    def check_model(self, name: str | None) -> None:
        """Refuses a model that is not the one.

        Raises:
            ApiError: 404.
        """
        if name is not None and name not in self.names:
            raise ApiError(
                404,
                f"there is no model {name!r} here; this server runs {self.model!r}",
                "invalid_request_error",
                param="model",
                code="model_not_found",
            )


def context_of(request: Request) -> Context:
    """The server's parts, in a route."""
    context: Context = request.app.state.context
    return context


def caller_of(request: Request) -> Caller:
    """Who asks, in a route."""
    caller: Caller = request.scope.get("boli.caller", ANYBODY)
    return caller


def new_id(prefix: str) -> str:
    """An identifier that nobody can guess, such as `chatcmpl-…`."""
    return f"{prefix}-{secrets.token_hex(12)}"


def reply_id(prefix: str, request_id: str) -> str:
    """The identifier of a reply, from that of its request: what is behind the dash is the same."""
    return f"{prefix}-{request_id.rpartition('-')[2]}"


def request_id_of(request: Request) -> str:
    """The server's own identifier of a request."""
    identifier: Any = request.scope.get("boli.request_id")
    return identifier if isinstance(identifier, str) else "-"


def _logged(answer: Answer) -> dict[str, Any]:
    """What the log says of an answer: counts and times, nothing of what was said."""
    taken = summary(answer)
    fields: dict[str, Any] = {
        "id": answer.job.request_id,
        "key": answer.job.label,
        "end": answer.finish_reason,
        "prompt": answer.prompt_tokens,
        "cached": answer.cached_tokens,
        "tokens": answer.completion_tokens,
    }
    for name in ("queued_s", "prefill_s", "decode_s"):
        fields[name] = round(taken.get(name, 0.0), 4)
    return fields | {"waited": taken["why_waited"]}


def _logged_embeddings(job: EmbeddingJob) -> dict[str, Any]:
    taken = job.summary()
    fields = {"id": job.request_id, "key": job.label, "end": job.finish_reason}
    fields |= {"texts": taken["texts"], "prompt": taken["prompt_tokens"]}
    fields |= {name: round(taken[name], 4) for name in ("queued_s", "compute_s")}
    return fields | {"waited": taken["why_waited"]}


def _names_of(llm: LLM) -> tuple[str, ...]:
    """What it was loaded as, and what its file or folder is called; never where that is."""
    stem = llm.path.stem if llm.path.suffix == ".gguf" else llm.path.name
    return tuple(dict.fromkeys((llm.title, stem, llm.path.name)))
