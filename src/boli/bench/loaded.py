"""A model on this machine, of just the size that a benchmark needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from boli.bench.driver import Driver, pages_for
from boli.bench.work import Work, work_of
from boli.cpu.runner import CpuRunner
from boli.engine.capacity import MAX_ROWS
from boli.engine.ledger import Ledger
from boli.errors import UsageError
from boli.formats.checkpoint import Checkpoint, open_checkpoint
from boli.formats.requantize import Choice, choose_weights, requantized
from boli.machine import memory_available

_WARM_UP = 4  # steps

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to be measured.

    Attributes:
        stored: Its files, open.
        checkpoint: The same, in the form in which it is run.
        weights: Which form that is, and why.
        driver: Drives its runner.
        work: What a step has to do.
        ledger: Bytes by category.
        positions: How many a sequence may have.
        load_s: Seconds to load it.
    """

    stored: Checkpoint
    checkpoint: Checkpoint
    weights: Choice
    driver: Driver
    work: Work
    ledger: Ledger
    positions: int
    load_s: float


@contextmanager
def loaded(
    path: Path,
    *,
    threads: int,
    sequences: int,
    positions: int,
    text_positions: int = 0,
    weights: str = "auto",
    kv_cache_type: str = "bf16",
    notice: Notice | None = None,
) -> Iterator[Loaded]:
    """Loads a model and warms it up; closes it in the end.

    Args:
        path: A folder or a GGUF file.
        threads: How many threads compute.
        sequences: How many sequences are decoded together.
        positions: How many positions each may have.
        text_positions: As many are wanted for a text, if the model was made for so many.
        weights: In which form matrices are kept; see `boli.load`.
        kv_cache_type: What keys and values are kept as; see `boli.load`.
        notice: Told what takes long.

    Raises:
        UsageError: The model was made for fewer positions, or cannot have that form.
        BoliError: It could not be loaded; see `boli.load`.
    """
    ledger, start = Ledger(), time.perf_counter()
    with open_checkpoint(path) as stored:
        most = stored.blueprint.config.max_position_embeddings
        if positions > most:
            raise UsageError(
                f"{positions:,} positions are needed, and the model was made for {most:,}",
                cause="the prompt has to fit, and the depth together with the new tokens",
                remedy="ask for fewer tokens, or a smaller depth",
            )
        positions = max(positions, min(text_positions, most))
        choice = choose_weights(stored, weights, memory_available())
        checkpoint = requantized(stored, choice.form)
        runner = CpuRunner(
            checkpoint,
            ledger=ledger,
            num_pages=sequences * pages_for(positions, CpuRunner.page_size),
            max_sequences=sequences,
            max_rows=max(MAX_ROWS, sequences),
            threads=threads,
            context=positions,
            kv_type=kv_cache_type,
            progress=notice,
        )
        try:
            load_s = time.perf_counter() - start
            driver = Driver(runner, sequences=sequences, positions=positions)
            driver.prefill(min(positions, MAX_ROWS))
            driver.decode(min(positions, _WARM_UP), depth=0)
            work = work_of(checkpoint, runner, ledger)
            yield Loaded(stored, checkpoint, choice, driver, work, ledger, positions, load_s)
        finally:
            runner.close()
