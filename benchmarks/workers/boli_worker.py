"""boli, measured as `boli bench` measures it: the runner's steps, without text and sampling."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from serving import serve

from boli import __version__
from boli.bench.loaded import Loaded, loaded
from boli.bench.quality import compare
from boli.cpu import limits
from boli.formats.checkpoint import open_checkpoint


class Worker:
    """One model.

    Args:
        threads: How many threads compute.
    """

    model: Loaded
    path: Path

    def __init__(self, threads: int) -> None:
        self.threads, self.filled = threads, 0
        self.stack = ExitStack()

    def open(self, path: str, sequences: int, positions: int) -> dict[str, Any]:
        """Loads a model."""
        self.path = Path(path)
        context = loaded(self.path, threads=self.threads, sequences=sequences, positions=positions)
        self.model = self.stack.enter_context(context)
        return {"version": __version__}

    def prefill(self, count: int) -> float:
        """Tokens a second of one prompt."""
        return count / self.model.driver.prefill(count)

    def decode(self, steps: int, depth: int, sequences: int) -> float:
        """Tokens a second of all sequences, behind `depth` positions that are filled once."""
        while self.filled < sequences and depth:
            self.model.driver.prefill(depth, sequence=self.filled)
            self.filled += 1
        return steps * sequences / self.model.driver.decode(steps, depth=depth).step_seconds

    def work(self, prompt: int, steps: int) -> dict[str, Any]:
        """What the prefill of a prompt has to compute, and a decoding from nothing to read."""
        _, operations = self.model.work.prefill(prompt)
        nbytes, _ = self.model.work.decode(steps, 0, 1)
        return {"prefill": asdict(operations), "decode": nbytes}

    def machine(self) -> dict[str, float]:
        """The limits of the machine, measured now."""
        found = limits.measure(self.threads)
        return {"decode": found.read_bytes_per_s.median, "prefill": found.int8_ops_per_s.median}

    def tokens(self, text: str, count: int) -> list[int]:
        """The first tokens of a text."""
        assert self.model.tokenizer is not None, self.model.no_tokenizer
        return self.model.tokenizer.encode(text)[:count]

    def reference(self, ids: list[int], path: str) -> None:
        """Writes the logits of the same weights in float32."""
        from boli.cpu.oracle import forward

        with open_checkpoint(self.path) as stored:
            np.save(path, forward(stored, ids))

    def logits(self, ids: list[int], path: str) -> None:
        """Writes the logits of the runner."""
        rows = self.model.driver.logits(np.asarray(ids, np.int32), 32)
        np.save(path, np.stack([row.copy() for row in rows]))

    def quality(self, left: list[str], right: list[str]) -> dict[str, float]:
        """How far the logits of some files are from those of others."""
        return asdict(compare(_rows(left), _rows(right)))


def _rows(paths: list[str]) -> Iterator[Any]:
    for path in paths:
        yield from np.load(path, mmap_mode="r")


serve(Worker(int(sys.argv[1])))
