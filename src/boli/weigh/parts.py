"""Who takes how much of a model: embeddings, attention, MLP, experts, head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from boli.weigh.weights import WeightsAccount, part_of

_NAMES: Final[Mapping[str, str]] = {"mlp": "MLP", "shared_experts": "shared experts"}


@dataclass(frozen=True, slots=True)
class Part:
    """All weights of one kind.

    Attributes:
        key: As `boli.weigh.weights.part_of` calls it.
        name: For people.
        parameters: Numbers that they hold.
        bytes: That they take.
    """

    key: str
    name: str
    parameters: int
    bytes: int


def parts_of(weights: WeightsAccount) -> list[Part]:
    """The parts of a model that hold anything, the largest first."""
    sums: dict[str, tuple[int, int]] = {}
    for row in weights.model_rows:
        parameters, size = sums.get(part_of(row.role), (0, 0))
        sums[part_of(row.role)] = parameters + row.parameters, size + row.bytes
    parts = [Part(key, _NAMES.get(key, key), *sizes) for key, sizes in sums.items() if sizes[0]]
    return sorted(parts, key=lambda part: -part.parameters)


def percent(part: float, whole: float) -> str:
    """A share for people: `62.6 %`, `< 0.1 %`."""
    share = 100 * part / whole if whole else 0.0
    return "< 0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"
