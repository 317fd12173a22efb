"""What a trace costs, before it is made: bytes of its arrays to the byte, seconds by what was measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from boli.cpu.probing import PROBES, shapes
from boli.engine.ledger import readable
from boli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from boli.blueprint.config import Config
    from boli.engine.batch import Float32
    from boli.engine.record import RunRecord

Detail = Literal["summary", "rows", "full"]
DETAILS: Final[tuple[Detail, ...]] = get_args(Detail)

#: Bytes of a trace's arrays at most; in base64 a third more.
MOST_BYTES: Final = 96 << 20
#: What is observed in a step, by detail.
WANTED: Final[dict[str, tuple[str, ...]]] = {
    "summary": ("embedding", "attention_branch", "mlp_branch", "residual"),
    "rows": ("embedding", "q_rotated", "attention_branch", "mlp_branch", "residual"),
    "full": PROBES,
}
_REHEARSAL: Final = 4  # rows of the head that are timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a trace costs.

    Attributes:
        detail: How much is kept.
        bytes: Of all arrays, exactly; the text around them, some kilobytes a token, comes on top.
        seconds: Of the replay, by the run's own speed and a rehearsal of the lens; None if not rehearsed.
    """

    detail: Detail
    bytes: int
    seconds: float | None = None


def price(config: Config, detail: Detail, prompt_length: int, generated: int) -> Price:
    """Bytes of a trace's arrays.

    Args:
        config: The model.
        detail: `summary` (norms, lens, sampler, times: no arrays), `rows` (also the attention of each
            generated token, a byte a weight, and the lens of the prompt), or `full` (also every
            intermediate of every token, the attention of the prompt, and all logits, in float32).
        prompt_length: Tokens of the prompt.
        generated: Tokens of the answer.

    Raises:
        UsageError: There is no such detail.
    """
    if detail not in DETAILS:
        raise UsageError(f"there is no detail {detail!r}", remedy=f"choose one of {', '.join(DETAILS)}")
    if detail == "summary":
        return Price(detail=detail, bytes=0)
    heads = config.num_hidden_layers * config.num_attention_heads
    # The n-th generated token is chosen looking back on prompt_length + n positions.
    seen = generated * prompt_length + generated * (generated - 1) // 2
    lens = 2 * prompt_length * (config.num_hidden_layers + 1)
    if detail == "rows":
        return Price(detail=detail, bytes=heads * seen + lens)
    before = prompt_length - 1
    intermediates = {name: math.prod(shape) for name, shape in shapes(config, 1, 1, PROBES).items()}
    of_token = sum(intermediates.values())
    numbers = (
        heads * (seen + before * before)
        + before * (of_token - intermediates["final_norm"])
        + generated * (of_token + config.vocab_size)
    )
    return Price(detail=detail, bytes=4 * numbers + lens)


def price_list(config: Config, run: RunRecord, head: Callable[[Float32], Float32]) -> Mapping[Detail, Price]:
    """What each detail of one run costs, with seconds.

    Args:
        config: The model.
        run: What is replayed; its own speed is taken for the steps.
        head: Final norm and head, as the lens uses it; some rows are timed.
    """
    row = _rehearse(config, head)
    generated, timings = len(run.generated), run.timings
    computed = max(1, run.prompt_length - run.reused_tokens)
    steps = timings.get("prefill_s", 0.0) * run.prompt_length / computed + timings.get("decode_s", 0.0)
    prices: dict[Detail, Price] = {}
    for detail in DETAILS:
        read = generated + (run.prompt_length if detail != "summary" else 0)
        prices[detail] = replace(
            price(config, detail, run.prompt_length, generated),
            seconds=steps + read * config.num_hidden_layers * row,
        )
    return prices


def _rehearse(config: Config, head: Callable[[Float32], Float32]) -> float:
    """Seconds of the lens for one position after one layer."""
    states = np.random.default_rng(0).standard_normal((_REHEARSAL, config.hidden_size)).astype(np.float32)
    times = []
    for _ in range(3):  # the first time something is loaded, and the system may take a pause
        start = time.perf_counter()
        logits = head(states)
        np.exp(logits - logits.max()).sum(dtype=np.float64)
        times.append(time.perf_counter() - start)
    return min(times) / _REHEARSAL


def check_price(config: Config, detail: Detail, prompt_length: int, generated: int) -> None:
    """Refuses what is too much, and says what would do.

    Raises:
        UsageError: More than `MOST_BYTES`, or there is no such detail.
    """
    offer = price(config, detail, prompt_length, generated)
    if offer.bytes <= MOST_BYTES:
        return
    less: Detail = "rows" if detail == "full" else "summary"
    other = price(config, less, prompt_length, generated)
    if other.bytes > MOST_BYTES:
        other = price(config, "summary", prompt_length, generated)
    raise UsageError(
        f"a trace of {prompt_length + generated:,} tokens in {detail!r} detail takes "
        f"{readable(offer.bytes)}; {readable(MOST_BYTES)} are the most",
        cause="attention grows with the square of the tokens, intermediates with their number",
        remedy=f"take detail {other.detail!r} ({readable(other.bytes)} of arrays), or fewer tokens",
    )
