"""Which share of a machine's limits engines reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from boli.weigh.amount import Certainty
from boli.weigh.devices import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Which share of the limits an engine reaches: low, best guess, high.

    Attributes:
        bandwidth: Of the memory's speed, while decoding.
        compute: Of the peak, while reading a prompt.
        one_row: Of the peak, while decoding one request: a weight is read and unpacked for one product
            only. With more requests it grows, and is `rows / (rows + 2)` of three times this. If left
            out, decoding is held against the whole share.
        layer_seconds: Added for each layer of a decode step: what does not grow with its matrices.
        step_seconds: Added for each decode step: sampling, text, the scheduler.
        certainty: "assumed", or "calibrated" if they were fitted to runs on the machine.
        source: Where they come from.
    """

    bandwidth: tuple[float, float, float]
    compute: tuple[float, float, float]
    one_row: tuple[float, float, float] | None = None
    layer_seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    step_seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    certainty: Certainty = "assumed"
    source: str = ""


_GPU: Final = Efficiency(
    bandwidth=(0.40, 0.58, 0.85),
    compute=(0.25, 0.45, 0.70),
    source="vLLM reaches 0.56 to 0.58 of the bandwidth with Llama-3.1-8B on H100 and A100, one request",
)
EFFICIENCY: Final[Mapping[Kind, Efficiency]] = MappingProxyType({
    "gpu": _GPU,
    "accelerator": _GPU,
    "apple": replace(_GPU, bandwidth=(0.50, 0.70, 0.90), source="customary; nobody measured it here"),
    "cpu": Efficiency(
        bandwidth=(0.50, 0.75, 0.95), compute=(0.15, 0.40, 0.80),
        source="llama.cpp reaches 0.65 to 0.97 of the memory's read speed on laptops (llama-roofline)",
    ),
})  # fmt: skip

#: boli's own engine on a processor whose limits were just measured.
BOLI: Final = Efficiency(
    bandwidth=(0.60, 0.97, 1.00),
    compute=(0.30, 0.44, 0.60),
    one_row=(0.08, 0.12, 0.20),
    layer_seconds=(60e-6, 25e-6, 10e-6),
    step_seconds=(1e-3, 350e-6, 100e-6),
    certainty="calibrated",
    source="boli with SmolLM2 135M and Gemma 3 270M on two cores of a Zen 4, memory at 28 to 48 GB/s",
)
