"""A model on this machine, of just the size that a benchmark needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from boli.bench.driver import Driver, pages_for
from boli.bench.work import Work, number_formats, work_of
from boli.cpu.runner import CpuRunner
from boli.engine.capacity import MAX_ROWS
from boli.engine.ledger import Ledger, private_bytes, resident_bytes
from boli.errors import BoliError, UsageError
from boli.formats.checkpoint import Checkpoint, open_checkpoint
from boli.formats.requantize import Choice, choose_weights, requantized
from boli.machine import memory_available
from boli.text import Tokenizer, load_tokenizer

_WARM_UP = 4  # steps

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to be measured; its files are closed.

    Attributes:
        parameters: How many numbers it has.
        format: The number formats of its matrices, as they are run.
        number_formats: The number format of each weight, by its blueprint's name.
        weights: In which form it is run, and why.
        tokenizer: The model's, or None.
        no_tokenizer: Why there is none.
        driver: Drives its runner.
        work: What a step has to do.
        ledger: Bytes by category.
        positions: How many a sequence may have.
        load_s: Seconds to load it, the tokenizer included, as `boli.load` counts.
    """

    parameters: int
    format: str
    number_formats: dict[str, str]
    weights: Choice
    tokenizer: Tokenizer | None
    no_tokenizer: str | None
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
    needs_tokenizer: bool = False,
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
        needs_tokenizer: Whether a model without one is refused.
        weights: In which form matrices are kept; see `boli.load`.
        kv_cache_type: What keys and values are kept as; see `boli.load`.
        notice: Told what takes long.

    Raises:
        UsageError: The model was made for fewer positions, or cannot have that form.
        BoliError: It could not be loaded; see `boli.load`.
    """
    ledger, start = Ledger(), time.perf_counter()
    ledger.record("runtime", resident_bytes())
    with ExitStack() as at_the_end:
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
            before = private_bytes()
            tokenizer, no_tokenizer = _tokenizer(path, checkpoint, needed=needs_tokenizer)
            ledger.record("text", max(0, private_bytes() - before))
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
            at_the_end.callback(runner.close)
            load_s = time.perf_counter() - start
            work = work_of(checkpoint, runner, ledger)
            format_name = number_formats(checkpoint)
            formats = {weight.name: checkpoint.format_of(weight).name for weight in checkpoint.blueprint}
        # The file is closed, as an engine closes it: its pages are not the model's.
        driver = Driver(runner, sequences=sequences, positions=positions)
        driver.prefill(min(positions, MAX_ROWS))
        driver.decode(min(positions, _WARM_UP), depth=0)
        yield Loaded(
            parameters=checkpoint.blueprint.parameters,
            format=format_name,
            number_formats=formats,
            weights=choice,
            tokenizer=tokenizer,
            no_tokenizer=no_tokenizer,
            driver=driver,
            work=work,
            ledger=ledger,
            positions=positions,
            load_s=load_s,
        )


def _tokenizer(path: Path, checkpoint: Checkpoint, *, needed: bool) -> tuple[Tokenizer | None, str | None]:
    """The model's tokenizer, or why there is none."""
    try:
        return load_tokenizer(path if checkpoint.gguf is None else checkpoint.gguf), None
    except BoliError as error:
        if needed:
            raise
        return None, f"tokenization was not measured: {error.message}"
