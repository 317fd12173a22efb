"""The receipt of a run: what was predicted of it, held against what it took."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from statistics import harmonic_mean
from typing import TYPE_CHECKING

from boli.cli.terminal import note

if TYPE_CHECKING:
    from pathlib import Path

    from boli.bench import Result
    from boli.cpu.limits import Glances
    from boli.engine.llm import LLM
    from boli.engine.output import Chunk, Completion
    from boli.weigh.receipt import Receipt


#: Seconds between two looks at the memory during a run.
LOOK_EVERY = 0.08
#: So many looks say more of a run than what was measured before and after it.
ENOUGH = 3


class Watch:
    """What the machine can do while a run is under way, of which a receipt is wanted.

    Clocks, neighbours and the place of virtual processors change within a tenth of a second, and with them
    the memory's speed, at times by half. So the run is interrupted now and then to measure that again; how
    long is known, and taken off the time of decoding.

    Args:
        llm: What runs.
        wanted: Whether a receipt is; else nothing is measured.
    """

    def __init__(self, llm: LLM, *, wanted: bool) -> None:
        self._glances: Glances | None = None
        self._paused = 0.0
        self._last = time.perf_counter()
        if wanted:
            from boli.cpu.limits import Glances, measure  # noqa: PLC0415  a second of work

            self._before = measure(llm.threads)
            self._glances = Glances(llm.threads)
            self._last = time.perf_counter()

    def look(self, chunk: Chunk) -> None:
        """Between two tokens: looks at the memory if it is time."""
        start = time.perf_counter()
        if self._glances is None or chunk.finish_reason is not None or start - self._last < LOOK_EVERY:
            return
        self._glances.look()
        self._last = time.perf_counter()
        self._paused += self._last - start

    def receipt(self, llm: LLM, completion: Completion) -> Receipt:
        """Reads the books, then weighs the model as if it had never run, on the machine as it was."""
        from boli.cpu.limits import Spread, measure  # noqa: PLC0415
        from boli.weigh.devices import measured_device  # noqa: PLC0415
        from boli.weigh.receipt import receipt  # noqa: PLC0415  brings in what has to be weighed first

        assert self._glances is not None, "no receipt was wanted"
        seen = self._glances.close()
        llm.ledger.record_libraries()
        process, resident, allocated = (
            llm.ledger.resident_bytes(), llm.ledger.resident(), llm.ledger.totals()
        )  # fmt: skip
        limits = self._before + measure(llm.threads)
        if len(seen) >= ENOUGH:
            # Bytes by speed are times, and times add: so the mean of speeds is the harmonic one.
            limits = replace(limits, read_bytes_per_s=Spread((harmonic_mean(seen),)))
        timings = completion.timings
        decoded = len(completion.token_ids) - 1
        took = timings.decode_s - self._paused
        return receipt(
            llm.path,
            name=llm.name,
            context=llm.context,
            threads=llm.threads,
            allocated=allocated,
            process=process,
            resident=resident,
            types=llm.number_formats,
            kv_dtype=llm.kv_cache_type,
            prompt_tokens=len(completion.prompt_token_ids),
            new_tokens=len(completion.token_ids),
            drafted_tokens=completion.drafted_tokens,
            accepted_tokens=completion.accepted_tokens,
            most_drafted=completion.most_drafted,
            tokens_per_s={
                "prompt": timings.prefill_tokens_per_s,
                "decode": decoded / took if decoded > 0 and took > 0.0 else 0.0,
            },
            device=measured_device(limits),
        )


def receipt_of_bench(result: Result) -> Receipt:
    """Weighs a model that was measured, on the machine as it was measured with it."""
    from boli.weigh.devices import measured_device  # noqa: PLC0415
    from boli.weigh.receipt import receipt  # noqa: PLC0415

    books, settings = result.books, result.settings
    return receipt(
        books.path,
        name=result.model,
        context=books.context,
        threads=settings.threads,
        allocated=books.allocated,
        process=books.process,
        resident=books.resident,
        types=books.number_formats,
        kv_dtype=settings.kv_cache_type,
        sequences=settings.batch,
        prompt_tokens=settings.prompt_tokens,
        depth=settings.depth,
        new_tokens=settings.new_tokens,
        tokens_per_s={
            "prompt": result.prefill.tokens_per_s.median,
            "decode": result.decode.tokens_per_s.median,
        },
        device=measured_device(result.limits),
    )


def print_receipt(receipt: Receipt) -> None:
    """Writes the receipt as a table with bars."""
    from boli.cli.weigh_print import print_sections  # noqa: PLC0415
    from boli.weigh.views_receipt import view_receipt  # noqa: PLC0415

    print_sections([view_receipt(receipt)], explain=False)
    if "numba" in sys.modules:
        note("This run compiled kernels: what the compiler still holds is unaccounted for.", "dim")


def save_receipt(receipt: Receipt, path: Path) -> None:
    """Writes the receipt as a picture in SVG."""
    from boli.weigh.picture_receipt import draw_receipt  # noqa: PLC0415

    path.write_text(draw_receipt(receipt).svg(), encoding="utf-8", errors="replace")
    note(f"written: {path}", "dim")
