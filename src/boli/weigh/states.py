"""What training keeps from step to step: weights, gradients and Adam's states, and how ZeRO shares them.

With Adam in mixed precision a parameter takes 2 bytes, its gradient 2, and fp32 copies of itself and
of two moments 12: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boli.weigh.amount import Amount, amount, total

# bitsandbytes keeps 8-bit moments with an fp32 scale a block, and those of small tensors in 32 bits.
_BLOCK = 256
_SMALLEST_IN_8_BITS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Bytes that training keeps of one parameter.

    Attributes:
        name: What to call it.
        what: What it is, for people.
        weights: The weights that are computed with.
        gradients: Their gradients.
        master: A copy of the weights in fp32.
        moments: Adam's two running means; 2 for 8 bits each, to which scales come.
        compute: One number of an activation.
    """

    name: str
    what: str
    weights: int
    gradients: int
    master: int
    moments: int
    compute: int

    @property
    def bytes(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.master + self.moments

    @property
    def rule(self) -> str:
        """The bytes as the field says them: `2 + 2 + 12`."""
        return f"{self.weights} + {self.gradients} + {self.master + self.moments}"


RECIPES: Final[Mapping[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="mixed", what="16-bit weights and gradients, fp32 copy and Adam",
            weights=2, gradients=2, master=4, moments=8, compute=2,
        ),
        Recipe(
            name="mixed-fp32-gradients", what="the same, gradients added up in fp32",
            weights=2, gradients=4, master=4, moments=8, compute=2,
        ),
        Recipe(
            name="fp32", what="everything in fp32",
            weights=4, gradients=4, master=0, moments=8, compute=4,
        ),
        Recipe(
            name="bf16", what="everything in bf16, Adam too",
            weights=2, gradients=2, master=0, moments=4, compute=2,
        ),
        Recipe(
            name="adam-8bit", what="as mixed, with Adam's moments in 8 bits",
            weights=2, gradients=2, master=4, moments=2, compute=2,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """What stays from step to step, on the device that has most.

    Attributes:
        weights: That are computed with.
        gradients: Of all weights.
        master: The fp32 copy of the weights.
        moments: Adam's.
        bytes: All together.
    """

    weights: Amount
    gradients: Amount
    master: Amount
    moments: Amount
    bytes: Amount


def states(tensors: Sequence[int], recipe: Recipe, *, zero: int = 0, devices: int = 1) -> States:
    """The account of what stays.

    Args:
        tensors: Numbers in each tensor that is trained.
        recipe: The number formats.
        zero: ZeRO stage: 1 shares Adam's states and the copy, 2 gradients too, 3 weights too.
        devices: That share them; a share is rounded up to whole numbers.
    """
    parameters = sum(tensors)

    def part(size: int, stage: int) -> Amount:
        if zero < stage or devices == 1:
            return amount("bytes", "bytes · parameters", bytes=size, parameters=parameters)
        return amount(
            "bytes",
            "bytes · ceil(parameters / devices)",
            bytes=size,
            parameters=parameters,
            devices=devices,
        )

    parts = {
        "weights": part(recipe.weights, 3),
        "gradients": part(recipe.gradients, 2),
        "master": part(recipe.master, 1),
        "moments": part(recipe.moments, 1),
    }
    if recipe.name == "adam-8bit":
        parts["moments"] = _in_8_bits(tensors, devices if zero else 1)
    return States(**parts, bytes=total(parts))


def _in_8_bits(tensors: Sequence[int], devices: int) -> Amount:
    """Two moments in 8 bits, with their scales."""
    large = [numbers for numbers in tensors if numbers >= _SMALLEST_IN_8_BITS]
    inputs = {
        "large_tensors": sum(large),
        "blocks_of_256": sum(-(-numbers // _BLOCK) for numbers in large),
        "small_tensors": sum(tensors) - sum(large),
    }
    formula = "2 · (large_tensors + 4 · blocks_of_256) + 8 · small_tensors"
    if devices == 1:
        return amount("bytes", formula, inputs)
    return amount("bytes", f"ceil(({formula}) / devices)", inputs, devices=devices)
