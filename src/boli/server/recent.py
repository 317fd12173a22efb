"""Recent answers, kept in memory so that they can be listed and, if that is allowed, replayed."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from boli.engine.output import Timings
from boli.engine.record import Origin, RunRecord
from boli.server.answer import Answer
from boli.server.embeddings_queue import EmbeddingJob
from boli.server.receipts import summary

MOST_ANSWERS = 64
MOST_TOKENS = 200_000


def same_request(identifier: str) -> str:
    """What the identifiers of one request and its reply share: all behind `req-` or `chatcmpl-`."""
    return identifier.rpartition("-")[2]


class Recent:
    """The latest answers.

    Args:
        origin: Of the model, for the records of runs.
        replayable: Whether prompts and answers are kept, or only their counts.
    """

    def __init__(self, origin: Origin, *, replayable: bool) -> None:
        self._origin = origin
        self._replayable = replayable
        self._kept: OrderedDict[tuple[str, str, int], Answer] = OrderedDict()
        self._tokens = 0
        self._listed: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MOST_ANSWERS)

    def add(self, answer: Answer) -> None:
        """Keeps an answer that has ended."""
        job, request = answer.job, answer.request
        entry = {"id": job.request_id, "finish_reason": answer.finish_reason, **summary(answer)}
        self._listed.append((job.label, entry | {"kind": "answer"}))
        if not self._replayable or request is None or not request.output:
            return
        self._kept[job.label, same_request(job.request_id), job.choice] = answer
        self._tokens += len(request.tokens)
        while len(self._kept) > MOST_ANSWERS or self._tokens > MOST_TOKENS:
            _, oldest = self._kept.popitem(last=False)
            assert oldest.request is not None, "only such are kept"
            self._tokens -= len(oldest.request.tokens)

    def add_embeddings(self, job: EmbeddingJob) -> None:
        """Keeps the counts of a request for vectors that has ended."""
        entry = {"id": job.request_id, "finish_reason": job.finish_reason, **job.summary()}
        self._listed.append((job.label, entry | {"kind": "embedding"}))

    def listed(self, label: str) -> Iterator[dict[str, Any]]:
        """Counts of what one caller's requests took, newest first."""
        return (entry for owner, entry in reversed(self._listed) if owner == label)

    def find(self, label: str, identifier: str, choice: int) -> RunRecord | None:
        """The record of one caller's answer, by the identifier of its request or reply."""
        answer = self._kept.get((label, same_request(identifier), choice))
        if answer is None or answer.request is None:
            return None
        origin = replace(self._origin, text=answer.job.text, messages=answer.job.messages)
        timings = asdict(Timings.of(answer.request, origin.load_s))
        return RunRecord.of(answer.request, origin, answer.text, timings)
