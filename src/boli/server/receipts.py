"""The receipt of an answer: where its time went, and how near its reading came to the machine's limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from boli.server.answer import Answer

if TYPE_CHECKING:
    from boli.engine.llm import LLM
    from boli.server.service import Service
    from boli.weigh.devices import Device
    from boli.weigh.model import Model
    from boli.weigh.run import RunAccount


def summary(answer: Answer) -> dict[str, Any]:
    """Times and counts of an answer that has ended, or of what there is of it."""
    request = answer.request
    if request is None:
        return {"why_waited": "it was never taken in"}
    end = request.finished_at or answer.told or answer.submitted
    started, first = request.started or end, request.first_token or end
    guesses = request.guesses
    return {
        "queued_s": started - answer.submitted,
        "prefill_s": first - started,
        "decode_s": end - first,
        "total_s": end - answer.submitted,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "generated_tokens": answer.completion_tokens,
        "drafted_tokens": 0 if guesses is None else guesses.drafted,
        "accepted_tokens": 0 if guesses is None else guesses.accepted,
        "preemptions": request.preemptions,
        "seed": request.sampler.seed,
        "why_waited": str(request.waits),
        "waits": {
            "behind": request.waits.behind,
            "pages_short": request.waits.pages_short,
            "seconds": dict(request.waits.seconds),
        },
    }


@dataclass
class Receipts:
    """Writes receipts; the model is weighed and the machine measured when the first one is wanted.

    Attributes:
        llm: The model.
        service: Says whether the machine is idle, as it must be to be measured.
    """

    llm: LLM
    service: Service
    _device: Device | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def of(self, answers: list[Answer]) -> list[dict[str, Any]]:
        """The receipts of answers that have ended."""
        async with self._lock:
            if self._device is None and not self.service.stats()["open"]:
                self._device = await asyncio.to_thread(self._measure)
            return await asyncio.to_thread(lambda: [self._one(answer) for answer in answers])

    def _one(self, answer: Answer) -> dict[str, Any]:
        receipt, depth = summary(answer), answer.prompt_tokens + answer.completion_tokens // 2
        read = self._bytes_per_token(min(depth, self.llm.context))
        limit = None if self._device is None else self._device.bandwidth
        took, count = receipt.get("decode_s", 0.0), answer.completion_tokens - 1
        rate = count / took if took > 0.0 and count > 0 else 0.0
        # As if it had been alone: requests that share a step share what it reads of the weights.
        return receipt | {
            "decode_tokens_per_s": rate,
            "bytes_per_token": read,
            "read_bytes_per_s": read * rate,
            "machine_read_bytes_per_s": limit,
            "share_of_bandwidth": None if limit is None else read * rate / limit,
        }

    def _bytes_per_token(self, depth: int) -> int:
        from boli.weigh.devices import this_memory  # noqa: PLC0415  # only receipts need it
        from boli.weigh.speed import weigh_speed  # noqa: PLC0415

        model, run = self._account
        speed = weigh_speed(
            model,
            self._device or this_memory(),
            bytes_of=run.packed,
            context=max(1, depth),
            kv_dtype=self.llm.kv_cache_type,
        )
        assert speed.decode is not None, "what boli runs decodes"
        return round(speed.decode.bytes.value)

    @cached_property
    def _account(self) -> tuple[Model, RunAccount]:
        from boli.weigh.model import find_model  # noqa: PLC0415
        from boli.weigh.run import weigh_run  # noqa: PLC0415

        model = find_model(self.llm.path)
        return model, weigh_run(
            model,
            context=self.llm.context,
            threads=self.llm.threads,
            types=self.llm.number_formats,
            kv_dtype=self.llm.kv_cache_type,
        )

    def _measure(self) -> Device:
        from boli.weigh.devices import this_device  # noqa: PLC0415

        return this_device(self.llm.threads)
