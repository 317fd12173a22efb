"""The receipt of a run: what was predicted of it, held against what it took."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from boli.cli.terminal import note

if TYPE_CHECKING:
    from pathlib import Path

    from boli.bench import Result
    from boli.cpu.limits import Limits
    from boli.engine.llm import LLM
    from boli.engine.output import Completion
    from boli.weigh.receipt import Receipt


#: The machine is another one if what it reads a second has changed by this share.
CHANGED = 0.2


def limits_before(llm: LLM, *, wanted: bool) -> Limits | None:
    """What the machine can do before a run that a receipt is wanted of.

    Clocks and neighbours change from one second to the next, so a run is held against what was measured
    on both sides of it.
    """
    if not wanted:
        return None
    from boli.cpu.limits import measure  # noqa: PLC0415  a second of work

    return measure(llm.threads)


def receipt_of(llm: LLM, completion: Completion, before: Limits | None) -> Receipt:
    """Reads the books, then weighs the model as if it had never run, on the machine as it was around it."""
    llm.ledger.record_libraries()
    process, resident, allocated = (
        llm.ledger.resident_bytes(), llm.ledger.resident(), llm.ledger.totals()
    )  # fmt: skip
    from boli.cpu.limits import measure  # noqa: PLC0415
    from boli.weigh.devices import measured_device  # noqa: PLC0415
    from boli.weigh.receipt import receipt  # noqa: PLC0415  brings in what has to be weighed first

    limits = after = measure(llm.threads)
    if before is not None:
        limits = before + after
        if words := changed(before, after):
            note(words, "dim")
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
            "prompt": completion.timings.prefill_tokens_per_s,
            "decode": completion.timings.decode_tokens_per_s,
        },
        device=measured_device(limits),
    )


def changed(before: Limits, after: Limits) -> str:
    """Says that the machine became another one during a run; empty if it did not."""
    then, now = before.read_bytes_per_s.median, after.read_bytes_per_s.median
    if abs(now / then - 1) <= CHANGED:
        return ""
    return (
        f"The machine read {then / 1e9:.0f} GB/s before this run and {now / 1e9:.0f} GB/s after it; "
        "the predicted speed is as unsure."
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
