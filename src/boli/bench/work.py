"""What a step has to do at least: bytes to read, and operations.

Counted from the blueprint, the file's number formats and the books of what was packed, not from
what the kernels do: whatever they do beyond it is what a benchmark is to show.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boli.cpu.limits import Limits

if TYPE_CHECKING:
    from boli.blueprint.weights import Blueprint, Weight
    from boli.cpu.runner import CpuRunner
    from boli.engine.ledger import Ledger
    from boli.formats.checkpoint import Checkpoint

_BY_FORMAT = {"BF16": "bf16", "F16": "f32", "F32": "f32"}  # all others are multiplied as int8


@dataclass(frozen=True, slots=True)
class Operations:
    """Multiplications and additions, each counted, by the unit of the processor that does them."""

    int8: int = 0
    bf16: int = 0
    f32: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.int8 + self.bf16 + self.f32

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.int8 + other.int8, self.bf16 + other.bf16, self.f32 + other.f32)

    def __mul__(self, times: int) -> Operations:
        return Operations(self.int8 * times, self.bf16 * times, self.f32 * times)

    def seconds(self, limits: Limits) -> float:
        """How long they take at the machine's peak."""
        return (
            self.int8 / limits.int8_ops_per_s.median
            + self.bf16 / limits.bf16_ops_per_s.median
            + self.f32 / limits.f32_ops_per_s.median
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What a model asks of a machine.

    Attributes:
        weight_bytes: Packed weights that every step reads once. An embedding table of which only
            single rows are looked up is left out; one that is the head too is read whole.
        cache_bytes: Keys and values of one position in one layer.
        windows: For each layer, how many positions it looks back at most, or None for all.
        max_rows: How many positions of a prompt a step takes.
        row: Operations of the matrix products for one token, without the head. Those of attention
            are not counted anywhere.
        head: Operations of the head for one token.
    """

    weight_bytes: int
    cache_bytes: int
    windows: tuple[int | None, ...]
    max_rows: int
    row: Operations
    head: Operations

    def cache_read(self, context: int, rows: int = 1) -> int:
        """Bytes of keys and values that are seen by the last `rows` of `context` positions."""
        return sum(
            self.cache_bytes * min(context, window + rows - 1 if window else context)
            for window in self.windows
        )

    def decode(self, steps: int, depth: int, batch: int) -> tuple[int, Operations]:
        """Bytes that `steps` steps of `batch` sequences read, and what they compute.

        Args:
            steps: How many steps.
            depth: Positions that each sequence had before.
            batch: How many sequences.
        """
        cached = sum(self.cache_read(depth + step + 1) for step in range(steps))
        return self.weight_bytes * steps + cached * batch, (self.row + self.head) * (steps * batch)

    def prefill(self, tokens: int) -> tuple[int, Operations]:
        """Bytes that the prefill of one sequence reads, and what it computes: one row of logits."""
        nbytes = 0
        for first in range(0, tokens, self.max_rows):
            end = min(first + self.max_rows, tokens)
            nbytes += self.weight_bytes + self.cache_read(end, end - first)
        return nbytes, self.row * tokens + self.head


def work_of(checkpoint: Checkpoint, runner: CpuRunner, ledger: Ledger) -> Work:
    """The work of a loaded model.

    Args:
        checkpoint: Still open.
        runner: What loaded it.
        ledger: Its books; nothing else must be in them.
    """
    blueprint, totals = checkpoint.blueprint, ledger.totals()
    config = blueprint.config
    packed = sum(count for name, count in totals.items() if name.startswith("weights"))
    layers = config.num_hidden_layers
    head = blueprint.find("head")
    products = [weight for weight in blueprint if _is_product(weight)]
    positions = runner.num_pages * runner.page_size
    return Work(
        weight_bytes=packed - _looked_up_bytes(checkpoint, blueprint),
        cache_bytes=totals["kv_cache"] // (positions * layers),
        windows=tuple(config.window_of(layer) for layer in range(layers)),
        max_rows=runner.max_rows,
        row=sum((_operations(checkpoint, weight) for weight in products if weight is not head), Operations()),
        head=Operations() if head is None else _operations(checkpoint, head),
    )


def number_formats(checkpoint: Checkpoint) -> str:
    """The formats of the matrices, those with most bytes first: `Q4_K + Q6_K`."""
    sizes: Counter[str] = Counter()
    for weight in checkpoint.blueprint:
        if len(weight.shape) == 2 and not weight.tied_to:
            sizes[checkpoint.format_of(weight).name] += _file_bytes(checkpoint, weight)
    return " + ".join(name for name, _ in sizes.most_common())


def _is_product(weight: Weight) -> bool:
    return len(weight.shape) == 2 and weight.role not in ("embedding", "position_embedding")


def _looked_up_bytes(checkpoint: Checkpoint, blueprint: Blueprint) -> int:
    """Tables of which a step reads single rows."""
    head = blueprint.find("head")
    tables = [blueprint.find("embedding"), blueprint.find("position_embedding")]
    return sum(
        _file_bytes(checkpoint, table)
        for table in tables
        if table is not None and (head is None or head.tied_to != table.name)
    )


def _file_bytes(checkpoint: Checkpoint, weight: Weight) -> int:
    rows, columns = weight.shape
    return rows * checkpoint.format_of(weight).nbytes(columns)


def _operations(checkpoint: Checkpoint, weight: Weight) -> Operations:
    rows, columns = weight.shape
    unit = _BY_FORMAT.get(checkpoint.format_of(weight).name, "int8")
    return Operations(**{unit: 2 * rows * columns})
