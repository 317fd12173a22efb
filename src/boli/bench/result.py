"""What a benchmark found, and the JSON document of it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from boli.bench.quality import Quality
from boli.bench.work import Operations
from boli.cpu.limits import KINDS, Limits, Spread, largest_cache_bytes
from boli.engine.llm import KvCacheType
from boli.errors import UsageError
from boli.formats.requantize import Weights

Binds = Literal["memory", "arithmetic"]

#: How much the machine's speed may change under the measurement before a reader is told.
_STEADY = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure.

    Attributes:
        prompt_tokens: Length of the prompt of the prefill; one sequence.
        new_tokens: How many tokens each sequence decodes.
        batch: How many sequences decode together.
        depth: How many positions each of them has before it decodes.
        repeat: How often all is measured.
        threads: How many threads compute.
        weights: In which form matrices are kept; see `boli.load`.
        kv_cache_type: What keys and values are kept as; see `boli.load`.

    Raises:
        UsageError: A number is out of range, or there is no such form or type.
    """

    prompt_tokens: int = 512
    new_tokens: int = 128
    batch: int = 1
    depth: int = 0
    repeat: int = 5
    threads: int = 1
    weights: str = "auto"
    kv_cache_type: str = "bf16"

    def __post_init__(self) -> None:
        ranges = {
            "prompt_tokens": (1, 1 << 20),
            "new_tokens": (1, 1 << 20),
            "batch": (1, 256),
            "depth": (0, 1 << 20),
            "repeat": (1, 1000),
            "threads": (1, max(4, os.cpu_count() or 1)),  # as `boli.load`
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                option = name.replace("_", "-")
                raise UsageError(f"{option} must be a whole number between {low} and {high:,}, not {value!r}")
        for name, known in (("weights", get_args(Weights)), ("kv_cache_type", get_args(KvCacheType))):
            if getattr(self, name) not in known:
                option = name.replace("_", "-")
                raise UsageError(f"{option} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    @property
    def positions(self) -> int:
        """How many positions a sequence needs."""
        return max(self.prompt_tokens, self.depth + self.new_tokens)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast something went, and what it was up against.

    Attributes:
        tokens_per_s: Of all sequences together.
        bytes_per_token: What has to be read at least, from memory.
        operations_per_token: What the matrix products have to compute.
        share_of_bandwidth: Of the machine's read bandwidth, by the medians.
        share_of_peak: Of the time, how much the products would take at the machine's peak.
        binds: Which of the two limits is nearer.
    """

    tokens_per_s: Spread
    bytes_per_token: float
    operations_per_token: float
    share_of_bandwidth: float
    share_of_peak: float
    binds: Binds

    @classmethod
    def of(
        cls, seconds: list[float], tokens: int, nbytes: int, operations: Operations, limits: Limits
    ) -> Rate:
        """The rate of something that was done several times.

        Args:
            seconds: How long it took each time.
            tokens: How many tokens it was.
            nbytes: What it had to read.
            operations: What it had to compute.
            limits: The machine.
        """
        rate = Spread(tuple(tokens / taken for taken in seconds))
        whole = tokens / rate.median
        bandwidth = nbytes / limits.read_bytes_per_s.median / whole
        peak = operations.seconds(limits) / whole
        return cls(
            rate,
            nbytes / tokens,
            operations.total / tokens,
            bandwidth,
            peak,
            "memory" if bandwidth >= peak else "arithmetic",
        )


@dataclass(frozen=True, slots=True)
class Apart:
    """What is not in the rates: seconds for each token.

    Attributes:
        tokenization: From text to ids, the first time included, when the tokenizer remembers no word yet;
            None if the model has no tokenizer.
        greedy: To choose the likeliest token of one sequence.
        drawn: To draw a token with temperature 0.8 and top-p 0.95.
    """

    tokenization: Spread | None
    greedy: Spread
    drawn: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What was loaded, and the memory that it took after the last run.

    Attributes:
        path: Where the model lies.
        context: Positions that each sequence has room for.
        number_formats: The number format of each weight, by its blueprint's name.
        allocated: Bytes by category.
        resident: How many of them are in memory.
        process: Resident bytes of the process.
    """

    path: Path
    context: int
    number_formats: dict[str, str]
    allocated: dict[str, int]
    resident: dict[str, int]
    process: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark found.

    Attributes:
        model: The model's name.
        format: The number formats of its matrices, as they are run.
        weights: Whether they were rounded while the model was loaded, and why.
        parameters: How many numbers it has.
        cpu: The processor's name.
        settings: What was measured.
        limits: The machine, measured before and after.
        prefill: A prompt from its first position.
        decode: One token after the other, for all sequences.
        weight_bytes: What each step reads of the weights.
        apart: Tokenization and sampling.
        quality: How far it is from full precision, if that was asked for.
        load_s: Seconds to load the model, with the compilation of kernels if it was needed.
        books: The memory that it took; the document has the bytes by category, as `ledger`.
        warnings: What a reader should know before believing the rest.
    """

    model: str
    format: str
    weights: str
    parameters: int
    cpu: str
    settings: Settings
    limits: Limits
    prefill: Rate
    decode: Rate
    weight_bytes: int
    apart: Apart
    quality: Quality | None
    load_s: float
    books: Books
    warnings: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """The JSON document: what stands above, under the same names.

        - `limits` has the medians, and each one's median, least and most under `spread`;
        - `prefill` and `decode` are a `Rate` each; of a decoding, `bytes_per_token` is a step's bytes
          divided by the sequences that share it, and `weight_bytes` a step's part that is weights;
        - `tokenization` (null without a tokenizer) and `sampling` have seconds for each token;
        - `quality` is there only if it was asked for.
        """
        limits, settings = self.limits, self.settings
        spreads = {"read_bytes_per_s": limits.read_bytes_per_s}
        spreads |= {f"{kind}_ops_per_s": getattr(limits, f"{kind}_ops_per_s") for kind in KINDS}
        document: dict[str, object] = {
            "model": self.model,
            "format": self.format,
            "weights": self.weights,
            "parameters": self.parameters,
            "cpu": self.cpu,
            "threads": settings.threads,
            "settings": {name: value for name, value in asdict(settings).items() if name != "threads"},
            "limits": {name: spread.median for name, spread in spreads.items()}
            | {"spread": {name: _spread(spread) for name, spread in spreads.items()}},
            "prefill": _rate(self.prefill),
            "decode": _rate(self.decode) | {"weight_bytes": self.weight_bytes},
            "tokenization": None
            if self.apart.tokenization is None
            else {"seconds_per_token": _spread(self.apart.tokenization)},
            "sampling": {
                "greedy_seconds_per_token": _spread(self.apart.greedy),
                "drawn_seconds_per_token": _spread(self.apart.drawn),
            },
            "load_s": self.load_s,
            "ledger": self.books.allocated,
            "warnings": list(self.warnings),
        }
        if self.quality is not None:
            document["quality"] = asdict(self.quality)
        return document


def unsteady(before: Limits, after: Limits) -> str | None:
    """A warning, if the machine was not the same before and after."""
    first, last = before.read_bytes_per_s.median, after.read_bytes_per_s.median
    if max(first, last) < _STEADY * min(first, last):
        return None
    return (
        f"memory was read at {first / 1e9:.1f} GB/s before and {last / 1e9:.1f} GB/s after: other work on "
        "this machine changes the figures"
    )


def in_cache(weight_bytes: int) -> str | None:
    """A warning, if a model is too small to be held against the memory."""
    cache = largest_cache_bytes()
    if weight_bytes > cache:
        return None
    return f"the weights fit into the processor's cache of {cache >> 20} MiB: they need not come from memory"


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "min": spread.min, "max": spread.max}


def _rate(rate: Rate) -> dict[str, object]:
    return {
        "tokens_per_s": _spread(rate.tokens_per_s),
        "bytes_per_token": rate.bytes_per_token,
        "operations_per_token": rate.operations_per_token,
        "share_of_bandwidth": rate.share_of_bandwidth,
        "share_of_peak": rate.share_of_peak,
        "binds": rate.binds,
    }
