"""The receipt of a run: what was predicted, what the ledger entered, and what really lies in memory.

Three columns for each category, because a right total can hide two wrong parts; and one line for what
nobody accounts for. Beside them the speed, predicted and measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from boli.cpu.sizes import PAGE_SIZE
from boli.weigh.amount import Amount, amount, total
from boli.weigh.devices import Device, this_device
from boli.weigh.kv import weigh_kv
from boli.weigh.model import Model, find_model
from boli.weigh.run import RunAccount, weigh_run
from boli.weigh.speed import PhaseSpeed, SpeedAccount, weigh_speed

#: The books are closed if less than this share of the process is unaccounted for.
CLOSED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One category of the books.

    Attributes:
        category: As the ledger calls it.
        predicted: Before the run, or None if nothing was.
        allocated: What the ledger holds.
        resident: How much of it was ever touched, and so takes memory; None where it cannot be told.
    """

    category: str
    predicted: Amount | None
    allocated: int
    resident: int | None

    @property
    def held(self) -> int:
        """What it takes of the process: what is resident, or all of it where that cannot be told."""
        return self.allocated if self.resident is None else self.resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The speed of one phase: predicted on the roofline, and measured.

    Attributes:
        phase: "prompt" or "decode".
        predicted: The roofline.
        tokens_per_s: Measured.
    """

    phase: str
    predicted: PhaseSpeed
    tokens_per_s: float


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Prediction and run side by side.

    Attributes:
        name: The model's.
        lines: The categories, as the ledger orders them; those that were only predicted last.
        process: Resident bytes of the process.
        speeds: The phases that were measured.
    """

    name: str
    lines: tuple[Line, ...]
    process: int
    speeds: tuple[Measured, ...]

    @cached_property
    def predicted(self) -> Amount:
        """All that was predicted."""
        return total({line.category: line.predicted for line in self.lines if line.predicted is not None})

    @property
    def allocated(self) -> int:
        """All that the ledger holds."""
        return sum(line.allocated for line in self.lines)

    @property
    def unaccounted(self) -> int:
        """What the process has in memory beyond the books; negative if the books hold more."""
        return self.process - sum(line.held for line in self.lines)

    @property
    def closed(self) -> bool:
        """Whether the books explain the process."""
        return abs(self.unaccounted) < CLOSED * self.process

    def to_json(self) -> dict[str, object]:
        """The receipt as a document."""
        return {
            "categories": {
                line.category: {
                    "predicted": line.predicted and line.predicted.value,
                    "allocated": line.allocated,
                    "resident": line.resident,
                }
                for line in self.lines
            },
            "predicted": self.predicted.value,
            "allocated": self.allocated,
            "process": self.process,
            "unaccounted": self.unaccounted,
            "closed": self.closed,
            "speed": {
                each.phase: {
                    "predicted_low": each.predicted.low and each.predicted.low.value,
                    "predicted": each.predicted.best and each.predicted.best.value,
                    "predicted_high": each.predicted.high and each.predicted.high.value,
                    "ceiling": each.predicted.ceiling and each.predicted.ceiling.value,
                    "measured": each.tokens_per_s,
                }
                for each in self.speeds
            },
        }


def receipt(
    path: Path,
    *,
    name: str = "",
    context: int,
    threads: int,
    allocated: Mapping[str, int],
    process: int,
    resident: Mapping[str, int] | None = None,
    types: Mapping[str, str] | None = None,
    kv_dtype: str | None = None,
    sequences: int | None = None,
    prompt_tokens: int = 0,
    depth: int | None = None,
    new_tokens: int = 0,
    drafted_tokens: int = 0,
    accepted_tokens: int = 0,
    most_drafted: int = 0,
    tokens_per_s: Mapping[str, float] | None = None,
    device: Device | None = None,
) -> Receipt:
    """Weighs a model that has run, and holds the account against the run.

    Args:
        path: Where the model lies, as `LLM.path`.
        name: What to call it; the file's name if empty.
        context: Positions that there is room for, as `LLM.context`.
        threads: That computed.
        allocated: `LLM.ledger.totals()` after the run.
        process: `LLM.ledger.resident_bytes()` after the run, and before this function.
        resident: Bytes of each category that are in memory, as far as they can be told.
        types: Number format of each weight, as `LLM.number_formats`; as they are stored if left out.
        kv_dtype: What the cache holds, as `LLM.kv_cache_type`; BF16 if left out.
        sequences: How many of `context` positions the cache was made for, and were decoded together; one,
            with the room beside it that `boli.load` makes, if left out.
        prompt_tokens: Tokens of the prompt that was measured, of one sequence.
        depth: Positions before the decoding; those of the prompt if left out.
        new_tokens: Tokens that each sequence decoded.
        drafted_tokens: How many were guessed; each took a row of a step.
        accepted_tokens: How many of those were right, and so came with the step of another token.
        most_drafted: How many one step verified at most: so many more rows of logits it had.
        tokens_per_s: Measured speed of "prompt" and "decode"; nothing, and speed is left out.
        device: The machine; if speed was measured and this is left out, it is measured now.
    """
    model = find_model(path)
    run = weigh_run(model, context=context, threads=threads, types=types, kv_dtype=kv_dtype)
    workspace = total({
        "loaded": run.categories["workspace"],
        "logits": amount(
            "bytes", "(sequences + most_drafted) · row",
            sequences=sequences or 1, most_drafted=most_drafted, row=run.logits_row.value,
        ),
    })  # fmt: skip
    categories = {**run.categories, "workspace": workspace}
    if sequences is not None:
        categories["kv_cache"] = _pages(model, context, sequences, kv_dtype)
    run = replace(run, categories=categories)
    measured = {phase: rate for phase, rate in (tokens_per_s or {}).items() if rate > 0}
    speed = None
    if measured:
        before = prompt_tokens if depth is None else depth
        weighed = partial(
            weigh_speed,
            model,
            device or this_device(threads),
            bytes_of=run.packed,
            context=max(1, min(context, before + (new_tokens + 1) // 2)),
            prompt=max(1, prompt_tokens),
            kv_dtype=kv_dtype,
            weight_type=_most(run),
        )
        # The prompt is read by itself, however many sequences decode.
        speed = replace(weighed(requests=sequences or 1), prefill=weighed().prefill)
        steps = new_tokens - 1 - accepted_tokens  # the first token came with the prompt
        if drafted_tokens and steps > 0:
            speed = replace(speed, decode=with_guesses(speed, steps, drafted_tokens, accepted_tokens))
    return held_against(name or model.name, run, speed, allocated, process, resident or {}, measured)


def held_against(
    name: str,
    run: RunAccount,
    speed: SpeedAccount | None,
    allocated: Mapping[str, int],
    process: int,
    resident: Mapping[str, int],
    tokens_per_s: Mapping[str, float],
) -> Receipt:
    """As `receipt`, for accounts that are there already."""
    lines = tuple(
        Line(
            category=category,
            predicted=run.categories.get(category),
            allocated=allocated.get(category, 0),
            resident=resident.get(category),
        )
        for category in dict.fromkeys((*allocated, *run.categories))
    )
    phases = {} if speed is None else {"prompt": speed.prefill, "decode": speed.decode}
    speeds = tuple(
        Measured(phase=phase, predicted=roofline, tokens_per_s=rate)
        for phase, rate in tokens_per_s.items()
        if (roofline := phases.get(phase)) is not None
    )
    return Receipt(name=name, lines=lines, process=process, speeds=speeds)


def with_guesses(speed: SpeedAccount, steps: int, drafted: int, accepted: int) -> PhaseSpeed | None:
    """Decoding whose steps had rows for guesses, too: they cost arithmetic, and no memory."""
    step, peak, shares = speed.decode, speed.peak, speed.efficiency.compute
    if step is None or peak is None:
        return step

    def tokens(rate: Amount | None, share: float) -> Amount | None:
        return rate and amount(
            "tokens/s", "(steps + accepted) / (steps / steps_per_s + drafted · flop / (peak · share))",
            certainty=rate.certainty, note=f"steps a second: {rate.explain()}",
            steps=steps, accepted=accepted, drafted=drafted, steps_per_s=rate.value,
            flop=step.flop.value, peak=peak.value, share=share,
        )  # fmt: skip

    low, best, high = (
        tokens(rate, share) for rate, share in zip((step.low, step.best, step.high), shares, strict=True)
    )
    return replace(step, ceiling=tokens(step.ceiling, 1.0), low=low, best=best, high=high)


def _pages(model: Model, context: int, sequences: int, kv_dtype: str | None) -> Amount:
    """The cache of so many sequences, with no room beside them."""
    page = weigh_kv(model, context=context, dtype=kv_dtype, engine="boli").bytes.inputs["page_bytes"]
    return amount(
        "bytes", "sequences · ceil(context / page_size) · page_bytes",
        sequences=sequences, context=context, page_size=PAGE_SIZE, page_bytes=page,
    )  # fmt: skip


def _most(run: RunAccount) -> str:
    """The number format that most of the weights have."""
    weights = {name: part.value for name, part in run.categories.items() if name.startswith("weights/")}
    weights.pop("weights/F32 vectors", None)
    return max(weights, key=lambda name: weights[name]).removeprefix("weights/")
