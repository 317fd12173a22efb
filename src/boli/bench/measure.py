"""One benchmark of one model, from the machine's limits to the quality of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boli.bench.driver import Decoded
from boli.bench.loaded import Loaded, Notice, loaded
from boli.bench.quality import POSITIONS, Quality, compare
from boli.bench.result import Apart, Books, Rate, Result, Settings, in_cache, unsteady
from boli.bench.texts import GLASS
from boli.cpu import limits
from boli.cpu.limits import Spread
from boli.engine.sampling import Sampler, SamplingParams
from boli.errors import PromptError
from boli.formats.checkpoint import open_checkpoint
from boli.machine import cpu_name, usable_cores
from boli.sources import resolve
from boli.text import Tokenizer

if TYPE_CHECKING:
    from boli.sources import Progress

_QUALITY_ROWS = 32  # positions whose logits are computed in a step
_DRAWS = 20


def run(
    model: str = "smollm2",
    *,
    prompt_tokens: int = 512,
    new_tokens: int = 128,
    batch: int = 1,
    depth: int = 0,
    repeat: int = 5,
    threads: int | None = None,
    weights: str = "auto",
    kv_cache_type: str = "bf16",
    quality: bool = False,
    text: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measures a model on this machine: the machine, then the model, then the machine again.

    Args:
        model: What `boli.load` takes.
        prompt_tokens: Length of the prompt that is prefilled, one sequence.
        new_tokens: How many tokens each sequence decodes.
        batch: How many sequences decode together.
        depth: How many positions of context each of them has before.
        repeat: How often that is measured.
        threads: How many threads compute; all usable cores if left out.
        weights: In which form matrices are kept; see `boli.load`.
        kv_cache_type: What keys and values are kept as; see `boli.load`.
        quality: Whether to compare the model as it is run with the stored weights in float32.
        text: What to compare them on; a text of boli's own if left out.
        progress: Told about downloads, and what is being measured.

    Raises:
        UsageError: A number is out of range, or does not fit into the model's context.
        PromptError: The text is empty.
        BoliError: The model could not be loaded; see `boli.load`.
    """
    settings = Settings(
        prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch, depth=depth, repeat=repeat,
        threads=usable_cores() if threads is None else threads, weights=weights, kv_cache_type=kv_cache_type,
    )  # fmt: skip
    if text is not None and not text.strip():
        raise PromptError("the text to compare on is empty", remedy="give a text of some sentences")
    local = resolve(model, progress=progress)
    notice: Notice = _silent if progress is None else progress.notice
    with loaded(
        local.path,
        threads=settings.threads,
        sequences=batch,
        positions=settings.positions,
        text_positions=POSITIONS if quality else 0,
        needs_tokenizer=quality,
        weights=weights,
        kv_cache_type=kv_cache_type,
        notice=notice,
    ) as model_here:
        tokenizer, work = model_here.tokenizer, model_here.work
        notice(f"measuring the machine, {settings.threads} threads")
        before = limits.measure(settings.threads, notice)
        prefills, decodes = _measure(model_here, settings, notice)
        books = _books(local.path, model_here)
        after = limits.measure(settings.threads)
        machine, steps = before + after, [run.step_seconds for run in decodes]
        return Result(
            model=local.name,
            format=model_here.format,
            weights=str(model_here.weights),
            parameters=model_here.parameters,
            cpu=cpu_name(),
            settings=settings,
            limits=machine,
            prefill=Rate.of(prefills, prompt_tokens, *work.prefill(prompt_tokens), machine),
            decode=Rate.of(steps, new_tokens * batch, *work.decode(new_tokens, depth, batch), machine),
            weight_bytes=work.weight_bytes,
            apart=_apart(tokenizer, decodes, settings),
            quality=_quality(local.path, model_here, text or GLASS, notice) if quality else None,
            load_s=model_here.load_s,
            books=books,
            warnings=tuple(
                filter(None, (model_here.no_tokenizer, unsteady(before, after), in_cache(work.weight_bytes)))
            ),
        )


def _silent(text: str) -> None:
    """For those who do not want to be told."""


def _measure(model: Loaded, settings: Settings, notice: Notice) -> tuple[list[float], list[Decoded]]:
    """Seconds of each prefill, and of the decoding after it."""
    driver = model.driver
    if settings.depth:
        notice(f"filling the context, {settings.batch} × {settings.depth:,} positions")
        for sequence in range(settings.batch):
            driver.prefill(settings.depth, sequence=sequence)
    prefills, decodes = [], []
    for number in range(1, settings.repeat + 1):
        notice(f"run {number} of {settings.repeat}")
        # The same tokens go to the same positions, so a context that was filled stays what it was.
        prefills.append(driver.prefill(settings.prompt_tokens))
        decodes.append(driver.decode(settings.new_tokens, depth=settings.depth))
    return prefills, decodes


def _apart(tokenizer: Tokenizer | None, decodes: list[Decoded], settings: Settings) -> Apart:
    """Seconds for each token of what is not in the rates."""
    tokens = settings.new_tokens * settings.batch
    drawing = Sampler(SamplingParams(temperature=0.8, top_p=0.95, seed=1))
    return Apart(
        tokenization=None if tokenizer is None else _tokenization(tokenizer, settings.repeat),
        greedy=Spread(tuple(run.sampling_seconds / tokens for run in decodes)),
        drawn=Spread(tuple(_seconds(partial(drawing.sample, decodes[-1].logits, n)) for n in range(_DRAWS))),
    )


def _tokenization(tokenizer: Tokenizer, repeat: int) -> Spread:
    """Seconds a token; the first time is the slowest, then the tokenizer remembers the words."""
    seconds = [_seconds(partial(tokenizer.encode, GLASS)) for _ in range(1 + repeat)]
    count = len(tokenizer.encode(GLASS))
    return Spread(tuple(taken / count for taken in seconds))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _books(path: Path, model: Loaded) -> Books:
    """What the process holds now."""
    model.ledger.record_libraries()
    return Books(
        path=path,
        context=model.positions,
        number_formats=model.number_formats,
        process=model.ledger.resident_bytes(),
        resident=model.ledger.resident(),
        allocated=model.ledger.totals(),
    )


def _quality(path: Path, model: Loaded, text: str, notice: Notice) -> Quality:
    """Compares the runner with the stored weights in float32, multiplied in float32."""
    from boli.cpu.oracle import forward  # noqa: PLC0415  only for this

    assert model.tokenizer is not None, "it was needed"
    ids = model.tokenizer.encode(text)[: min(POSITIONS, model.positions)]
    notice(f"comparing with float32 at {len(ids)} positions")
    with open_checkpoint(path) as stored:
        reference = forward(stored, ids)
    return compare(reference, model.driver.logits(np.asarray(ids, np.int32), _QUALITY_ROWS))
