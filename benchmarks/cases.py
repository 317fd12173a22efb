"""What `peers.py` compares: the figures that boli means to reach, one case for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Engine = Literal["llama", "openvino", "transformers"]

SAME = "same file"

# How the peers' programs are called in print.
NAMES: dict[str, str] = {"llama": "llama.cpp", "openvino": "OpenVINO GenAI", "transformers": "transformers"}


@dataclass(frozen=True, slots=True)
class Rival:
    """A peer, and the form of the model that it runs.

    Attributes:
        engine: Which peer.
        form: `SAME`, or what llama.cpp makes of that file: Q4_0, Q8_0, BF16.
    """

    engine: Engine
    form: str = SAME

    def __str__(self) -> str:
        return f"{NAMES[self.engine]}, {self.form}"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second against peers; the best of them counts.

    Attributes:
        name: For `--only`.
        model: An alias of boli's, or `random-1b-…`.
        measure: What is measured.
        count: Tokens of the prompt, or tokens that each sequence decodes.
        rivals: Whom it is measured against.
        target: The least ratio; None if it is only told.
        depth: Positions before a decoding.
        sequences: How many decode together.
    """

    name: str
    model: str
    measure: Literal["prefill", "decode"]
    count: int
    rivals: tuple[Rival, ...]
    target: float | None
    depth: int = 0
    sequences: int = 1

    @property
    def work(self) -> str:
        """What is done, in words."""
        if self.measure == "prefill":
            return f"prefill {self.count:,}, {self.model}"
        together = f" × {self.sequences} sequences" if self.sequences > 1 else ""
        behind = f" behind {self.depth:,}" if self.depth else ""
        return f"decode {self.count}{together}{behind}, {self.model}"

    @property
    def positions(self) -> int:
        """How many a sequence needs."""
        return self.count + self.depth + 16


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the machine's own limit is reached.

    Attributes:
        name: For `--only`.
        model: An alias of boli's.
        measure: `decode` against the read bandwidth, `prefill` against the int8 peak.
        count: Tokens.
        target: The least share.
    """

    name: str
    model: str
    measure: Literal["prefill", "decode"]
    count: int
    target: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Mean KL divergence from float32, against llama.cpp's with the same file.

    Attributes:
        name: For `--only`.
        model: An alias of boli's.
        form: `SAME`, or what llama.cpp makes of the file.
        target: The most that boli's may be of llama.cpp's.
    """

    name: str
    model: str
    form: str
    target: float = 1.1


@dataclass(frozen=True, slots=True)
class Start:
    """A whole program of 8 tokens, from its start to its end: wall time and memory.

    Attributes:
        name: For `--only`.
        model: An alias of boli's.
        most_time: The most that boli's wall time may be of llama.cpp's.
        most_memory: The same of the peak of resident memory.
    """

    name: str
    model: str
    most_time: float = 1.5
    most_memory: float = 1.0


Case = Speed | Share | Quality | Start

_LLAMA = (Rival("llama"),)
_FORMS = tuple(Rival("llama", form) for form in ("Q4_0", "Q8_0", "BF16"))

CASES: tuple[Case, ...] = (
    Speed("decode", "smollm2", "decode", 128, _LLAMA, 2.7),
    Speed("decode-q4_0", "smollm2", "decode", 128, (Rival("llama", "Q4_0"),), 1.9),
    Speed("prefill", "smollm2", "prefill", 512, _LLAMA, 10.0),
    Speed("prefill-best", "smollm2", "prefill", 512, _FORMS, 2.5),
    Speed("prefill-openvino", "smollm2", "prefill", 512, (Rival("openvino", "Q4_0"),), 1.7),
    Speed("batch-4", "smollm2", "decode", 64, _LLAMA, 5.0, depth=128, sequences=4),
    Speed("batch-16", "smollm2", "decode", 64, _LLAMA, 6.0, depth=128, sequences=16),
    Speed("batch-16-q4_0", "smollm2", "decode", 64, (Rival("llama", "Q4_0"),), 3.0, depth=128, sequences=16),
    Speed("gemma-decode", "gemma3-270m", "decode", 128, _LLAMA, 2.2),
    Speed("gemma-prefill", "gemma3-270m", "prefill", 512, _LLAMA, 4.0),
    Speed("deep-decode", "smollm2", "decode", 64, _LLAMA, 3.0, depth=4096),
    Speed("deep-prefill", "smollm2", "prefill", 4096, _LLAMA, 8.0),
    Speed("1b-q4_0", "random-1b-q4_0", "decode", 32, _LLAMA, 1.25),
    Speed("1b-q8_0", "random-1b-q8_0", "decode", 32, _LLAMA, 1.25),
    Share("bandwidth", "smollm2", "decode", 128, 0.75),
    Share("peak", "smollm2", "prefill", 512, 0.5),
    Quality("kl-q4_1", "smollm2", SAME),
    Quality("kl-q4_0", "smollm2", "Q4_0"),
    Quality("kl-q8_0", "smollm2", "Q8_0"),
    Quality("kl-bf16", "smollm2", "BF16"),
    Quality("kl-gemma", "gemma3-270m", SAME),
    Start("start", "smollm2"),
    # No target, for the record.
    Speed("decode-openvino", "smollm2", "decode", 64, (Rival("openvino", "Q4_0"),), None),
    Speed("decode-transformers", "smollm2", "decode", 32, (Rival("transformers"),), None),
    Speed("prefill-transformers", "smollm2", "prefill", 512, (Rival("transformers"),), None),
)
