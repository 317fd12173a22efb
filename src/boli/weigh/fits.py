"""What fits on a device: weights, KV cache, workspace and runtime together, and how far they could grow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from boli.weigh.amount import Amount, amount, total
from boli.weigh.devices import Device
from boli.weigh.formats import FormatBytes, weigh_formats
from boli.weigh.kv import MAX_REQUESTS, weigh_kv
from boli.weigh.kv_rules import Engine
from boli.weigh.model import Model, ModelFacts
from boli.weigh.run import Loaded

# From the largest to the smallest; the first that fits is the best one.
LADDER: Final = ("FP16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")

# Outside of the books of an engine on a GPU: the driver's context and the libraries' workspaces.
GPU_RUNTIME: Final = 512 << 20
GPU_ROWS: Final = 512  # tokens of a step, llama.cpp's default micro-batch
# Of a Mac's memory, Metal lets a process use about three quarters without being told otherwise.
METAL_SHARE: Final = 0.75

_SHORT, _COLUMNS, _ROWS = 1024, 8, (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the board: so many requests of such a context."""

    context: int
    requests: int
    bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class FitsAccount:
    """A model on a device.

    Attributes:
        device: Which.
        engine: Whose rules.
        format: The weights' number format, or "as stored".
        context: Positions of each request.
        requests: How many at once.
        parts: `weights`, `kv_cache`, `workspace`, `runtime`, and `text` for boli.
        capacity: Bytes that the device lets a model have.
        largest_context: Positions that would fit with these requests, at most what the model was made
            for; None if not one fits.
        largest_requests: Requests of this context that would fit; None if not one fits.
        formats: Total bytes in each format of the ladder.
        best_format: The first of them that fits, or None.
        board: The total for contexts and requests, row by row.
        notes: What a reader should know.
        not_modelled: What is left out.
    """

    device: Device
    engine: Engine
    format: str
    context: int
    requests: int
    parts: Mapping[str, Amount]
    capacity: Amount
    largest_context: Amount | None
    largest_requests: Amount | None
    formats: Mapping[str, Amount]
    best_format: str | None
    board: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()

    @cached_property
    def total(self) -> Amount:
        """All parts."""
        return total(self.parts)

    @cached_property
    def free(self) -> Amount:
        """What is left; negative if it does not fit."""
        return amount(
            "bytes", "capacity - total", certainty=self.total.certainty,
            capacity=self.capacity.value, total=self.total.value,
        )  # fmt: skip

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.total.value <= self.capacity.value


Sizes = Callable[[int, int], Mapping[str, Amount]]  # by context and requests


def weigh_fits(
    model: Model,
    device: Device,
    *,
    context: int,
    requests: int = 1,
    weights: FormatBytes | Amount,
    engine: Engine | None = None,
    kv_dtype: str | None = None,
    threads: int | None = None,
) -> FitsAccount:
    """What a model takes on a device, and what else would fit.

    Args:
        model: The model.
        device: The machine.
        context: Positions of each request.
        requests: How many at once.
        weights: In which format, or what they take as they are stored.
        engine: Whose rules; boli's where it runs the model on processors, else what the model needs.
        kv_dtype: What the KV cache holds.
        threads: That boli computes with; those of this machine if left out.

    Raises:
        UsageError: A size is out of range, or the engine cannot hold such a cache.
        UnsupportedModel: The layers are not known, or boli does not compute with the format.
    """
    facts = model.facts
    chosen = engine or default_engine(model, device, weights if isinstance(weights, FormatBytes) else None)
    sizes = _sizes(model, device, chosen, weights, kv_dtype, threads)
    parts = sizes(context, requests)  # complains about what is wrong, before much is computed
    room = _capacity(device, chosen)

    def need(positions: int, count: int) -> int:
        return int(sum(part.value for part in sizes(positions, count).values()))

    made_for = max(facts.max_position_embeddings if facts else 0, context)
    longest = _largest(lambda n: need(n, requests) <= room.value, made_for)
    most = _largest(lambda n: need(context, n) <= room.value, MAX_REQUESTS)
    ladder = _ladder(model, device, chosen, kv_dtype, threads)
    totals = {name: total(each(context, requests)) for name, each in ladder.items()}
    contexts = [_SHORT << step for step in range(24) if _SHORT << step <= made_for] or [made_for]
    board = tuple(
        tuple(Cell(c, r, size, size <= room.value) for c in contexts[-_COLUMNS:] for size in (need(c, r),))
        for r in _ROWS
    )
    notes = ["the memory is shared with everything else that runs"] if device.kind in ("cpu", "apple") else []
    return FitsAccount(
        device=device,
        engine=chosen,
        format=weights.name if isinstance(weights, FormatBytes) else "as stored",
        context=context,
        requests=requests,
        parts=parts,
        capacity=room,
        largest_context=None if not longest else amount("positions", "largest", largest=longest),
        largest_requests=None if not most else amount("requests", "largest", largest=most),
        formats=totals,
        best_format=next((name for name, size in totals.items() if size.value <= room.value), None),
        board=board,
        notes=(*notes, *([device.note] if device.note else [])),
        not_modelled=("memory that allocators lose between buffers", "what the screen takes of a GPU"),
    )


def default_engine(model: Model, device: Device, weights: FormatBytes | None) -> Engine:
    """Whose rules to take: boli's where it can run the model, else what the model needs."""
    runs = not model.not_runnable and device.kind in ("cpu", "apple")
    return (
        "boli" if runs and (weights is None or weights.kind == "gguf" or weights.name == "FP16") else "model"
    )


def _sizes(
    model: Model,
    device: Device,
    engine: Engine,
    weights: FormatBytes | Amount,
    kv_dtype: str | None,
    threads: int | None,
) -> Sizes:
    """The parts as a function of context and requests."""
    if engine == "boli":
        types = weights.types if isinstance(weights, FormatBytes) else None
        loaded = Loaded(model, threads=threads, types=types, kv_dtype=kv_dtype)

        def of_boli(context: int, requests: int) -> Mapping[str, Amount]:
            all_of_it = loaded.categories(context, requests)
            weight_parts = {name: each for name, each in all_of_it.items() if name.startswith("weights/")}
            row = loaded.logits_row.value
            logits = amount("bytes", "requests · row", requests=requests, row=row)
            return {
                "weights": total(weight_parts),
                "kv_cache": all_of_it["kv_cache"],
                "workspace": total({"loaded": all_of_it["workspace"], "logits": logits}),
                "text": all_of_it["text"],
                "runtime": all_of_it["runtime"],
            }

        return of_boli
    held = weights.bytes if isinstance(weights, FormatBytes) else weights

    def of_others(context: int, requests: int) -> Mapping[str, Amount]:
        kv = weigh_kv(model, context=context, requests=requests, dtype=kv_dtype, engine=engine)
        assert model.facts is not None, "weigh_kv refuses a model without them"
        runtime = amount(
            "bytes", "context_and_libraries", certainty="assumed", note="of a GPU; differs by driver",
            context_and_libraries=GPU_RUNTIME if device.kind in ("gpu", "accelerator") else 0,
        )  # fmt: skip
        workspace = _activations(model.facts, requests)
        return {"weights": held, "kv_cache": kv.bytes, "workspace": workspace, "runtime": runtime}

    return of_others


def _activations(facts: ModelFacts, requests: int) -> Amount:
    """Sixteen-bit activations of a step of 512 tokens, and float32 logits of each request."""
    width = facts.num_attention_heads * facts.head_dim + 2 * facts.num_key_value_heads * facts.head_dim
    return amount(
        "bytes", "2 · rows · (4 · hidden_size + qkv + 2 · intermediate_size) + 4 · requests · vocab_size",
        certainty="assumed", note="as an engine with fused attention would need",
        rows=GPU_ROWS, hidden_size=facts.hidden_size, qkv=width, intermediate_size=facts.intermediate_size,
        requests=requests, vocab_size=facts.vocab_size,
    )  # fmt: skip


def _capacity(device: Device, engine: Engine) -> Amount:
    if device.kind == "apple" and engine != "boli":
        return amount(
            "bytes", "memory · share", certainty="assumed", note="what Metal lets a process use",
            memory=device.memory, share=METAL_SHARE,
        )  # fmt: skip
    return amount("bytes", "memory", certainty=device.certainty, memory=device.memory)


def _ladder(
    model: Model, device: Device, engine: Engine, kv_dtype: str | None, threads: int | None
) -> dict[str, Sizes]:
    formats = weigh_formats(model, LADDER)
    return {name: _sizes(model, device, engine, each, kv_dtype, threads) for name, each in formats.items()}


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits; 0 if 1 does not. What does not fit never fits later."""
    if not fits(1):
        return 0
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
