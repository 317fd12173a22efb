"""The way to the engine for texts that are to become vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from boli.engine.batch import Float32
from boli.engine.engine import Engine
from boli.engine.pooling import Embedding, Pooler, Pooling
from boli.server.errors import ApiError, overloaded, shutting_down
from boli.server.service import Service

_AT_ONCE = 32  # texts of a request; then it is the next request's turn
_PAUSE = 0.005  # seconds until pages are asked for again when all are in use


class EmbeddingQueue:
    """Computes vectors between the engine's steps, one chunk at a time.

    Whoever waits for a vector asks for the next chunk, and that serves all who wait. So an answer's next
    token waits for one chunk at most, and texts of several requests share a chunk and take turns.

    Args:
        service: The way to the engine's thread.
        patience: Seconds that requests get when the server ends.
    """

    def __init__(self, service: Service, patience: float = 0.0) -> None:
        self._service = service
        self._patience = patience
        self._end: float | None = None  # when patience ends, once the server does
        self._pooler = Pooler(service.llm._engine)
        self._open = 0  # requests
        self._endings: set[asyncio.Task[None]] = set()

    async def embed(self, prompts: Sequence[Sequence[int]], pooling: Pooling) -> list[Float32]:
        """The vectors of texts, in their order.

        Args:
            prompts: Token ids of each text.
            pooling: `mean`, `last` or `first`.

        Returns:
            float32 `[hidden_size]` for each, not normalized.

        Raises:
            ApiError: 429 if too many requests wait, 503 if the server ends.
            BoliError: A text cannot be computed, or its vector is none.
        """
        if self._service.draining:
            raise shutting_down()
        if self._open >= max(1, self._service.max_queue):
            raise overloaded(self._open, self._service.retry_after(self._open))
        self._open += 1
        vectors: list[Float32] = []
        try:
            for start in range(0, len(prompts), _AT_ONCE):
                vectors += await self._some(prompts[start : start + _AT_ONCE], pooling)
        finally:
            self._open -= 1
        return vectors

    async def _some(self, prompts: Sequence[Sequence[int]], pooling: Pooling) -> list[Float32]:
        embeddings: list[Embedding] = []
        try:
            await self._service.between_steps(lambda _: self._submit(prompts, pooling, embeddings))
            while not all(each.finished for each in embeddings):
                self._check_time()
                if not await self._service.between_steps(self._step):
                    await asyncio.sleep(_PAUSE)
        except BaseException:
            # Not waited for: whoever asked may be gone, and this task is being cancelled.
            ending = asyncio.create_task(self._forget(embeddings))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            raise
        vectors: list[Float32] = []
        for each in embeddings:
            if each.error is not None:
                raise each.error
            assert each.vector is not None, "it is finished"
            vectors.append(each.vector)
        return vectors

    def _check_time(self) -> None:
        if self._service.draining:
            self._end = self._end or time.monotonic() + self._patience
            if time.monotonic() >= self._end:
                raise shutting_down()

    def _submit(
        self, prompts: Sequence[Sequence[int]], pooling: Pooling, embeddings: list[Embedding]
    ) -> None:
        for prompt in prompts:
            embeddings.append(self._pooler.submit(prompt, pooling))

    def _step(self, _engine: Engine) -> bool:
        return self._pooler.step()

    async def _forget(self, embeddings: list[Embedding]) -> None:
        def cancel(_engine: Engine) -> None:
            for each in embeddings:
                self._pooler.cancel(each)

        try:
            await self._service.between_steps(cancel)
        except ApiError:  # the server ends: nobody is held up by the engine's lock any more
            cancel(self._service.llm._engine)
