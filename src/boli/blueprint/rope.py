"""Rotary position embeddings: the angle per position of each pair of numbers in a head.

Su et al. 2021, https://arxiv.org/abs/2104.09864. Scaled variants stretch the angles so that a
model reads further than it was trained: linear (Chen et al. 2023, https://arxiv.org/abs/2306.15595)
and Llama 3's, which leaves short wavelengths alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from boli.blueprint.config import Rope
from boli.blueprint.fields import BOUNDS, Fields
from boli.errors import CorruptFile, UnsupportedModel

DEFAULT_THETA = 10_000.0
SETTINGS = {
    "rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "partial_rotary_factor",
}  # fmt: skip


def plain(theta: float, dim: int) -> Rope:
    """Unscaled: pair `i` of `dim / 2` turns by `theta ** (-2 i / dim)` radians a position."""
    return Rope(
        theta=theta, dim=dim, inverse_frequencies=tuple(theta ** (-i / dim) for i in range(0, dim, 2))
    )


def linear(theta: float, dim: int, factor: float) -> Rope:
    """All angles divided by `factor`."""
    return divided(theta, dim, (factor,) * (dim // 2), f"linear ×{factor:g}")


def llama3(theta: float, dim: int, *, factor: float, low: float, high: float, original_context: int) -> Rope:
    """Llama 3.1's: wavelengths above `original_context / low` are stretched by `factor`, those
    below `original_context / high` are left, and between them the two are blended.
    """  # noqa: D205
    divisors = []
    for frequency in plain(theta, dim).inverse_frequencies:
        turns = original_context * frequency / (2 * math.pi)  # in the original context
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / (kept + (1 - kept) / factor))
    return divided(theta, dim, divisors, f"llama3 ×{factor:g}")


def divided(theta: float, dim: int, divisors: Sequence[float], scaling: str) -> Rope:
    """Each pair's angle divided by a number of its own, as GGUF stores Llama 3's scaling."""
    frequencies = plain(theta, dim).inverse_frequencies
    scaled = tuple(frequency / divisor for frequency, divisor in zip(frequencies, divisors, strict=True))
    return Rope(theta=theta, dim=dim, inverse_frequencies=scaled, scaling=scaling)


def from_hf(fields: Fields, dim: int, *, default_theta: float = DEFAULT_THETA) -> Rope:
    """The one rotary embedding of a `config.json`.

    transformers 5 writes `rope_parameters`; before, it was `rope_theta` and `rope_scaling`.
    """
    theta = fields.number("rope_theta", "rope_theta", default_theta)
    new, old = fields.group("rope_parameters"), fields.group("rope_scaling")
    if new is not None and old is not None and new.values != old.values:
        raise fields.unsupported("rope_scaling", "rope_parameters is there too, and says something else")
    settings = new or old
    if settings is None:
        return plain(theta, dim)
    for key in ("full_attention", "sliding_attention"):
        if settings.get(key) is not None:
            raise settings.unsupported(key, "this family has one rotary embedding for all layers")
    return from_settings(settings, dim, theta, fields.get("max_position_embeddings"))


def from_settings(settings: Fields, dim: int, default_theta: float, max_positions: object = None) -> Rope:
    """One object of `rope_parameters` or `rope_scaling`.

    Raises:
        UnsupportedModel: A kind of scaling, or a setting of it, that boli does not run, by name.
    """
    settings.refuse({"partial_rotary_factor": (1,)} | dict.fromkeys(settings.values.keys() - SETTINGS, ()))
    theta = settings.number("rope_theta", "rope_theta", default_theta)
    kind = settings.word("rope_type", settings.word("type", "default"))
    if kind == "default":
        return plain(theta, dim)
    if kind == "linear":
        return linear(theta, dim, settings.number("factor", "rope_factor"))
    if kind == "llama3":
        key = "original_max_position_embeddings"
        if settings.get(key) is None and max_positions is not None:
            settings = Fields({**settings.values, key: max_positions}, source=settings.source)
        low = settings.number("low_freq_factor", "rope_factor")
        high = settings.number("high_freq_factor", "rope_factor")
        settings.require(high > low, "high_freq_factor", f"more than low_freq_factor, which is {low:g}")
        return llama3(
            theta,
            dim,
            factor=settings.number("factor", "rope_factor"),
            low=low,
            high=high,
            original_context=settings.integer(key, "max_position_embeddings"),
        )
    raise UnsupportedModel(
        f"{settings.source}: boli does not run rotary embeddings scaled by {kind!r}",
        cause="it runs unscaled ones, 'linear' and 'llama3'",
    )


def from_gguf(
    fields: Fields, dim: int, divisors: Sequence[float] | None, *, default_theta: float = DEFAULT_THETA
) -> Rope:
    """The rotary embedding of a GGUF file; `divisors` is its tensor `rope_freqs.weight`, if any."""
    theta = fields.number("rope.freq_base", "rope_theta", default_theta)
    fields.refuse({"rope.scaling.attn_factor": (0, 1), "rope.dimension_sections": ()})
    kind = fields.word("rope.scaling.type", "linear")
    factor = 1.0
    for key in ("rope.scale_linear", "rope.scaling.factor"):  # the first is how older files say it
        if fields.get(key) not in (None, 0):
            factor = fields.number(key, "rope_factor")
    if kind not in ("none", "linear"):
        raise fields.unsupported("rope.scaling.type", "boli runs 'none', 'linear' and rope_freqs.weight")
    if kind == "none":
        factor = 1.0
    if divisors is not None:
        low, high = BOUNDS["rope_factor"]
        if len(divisors) != dim // 2 or not all(low <= divisor <= high for divisor in divisors):
            raise CorruptFile(
                f"{fields.source}: rope_freqs.weight holds {len(divisors)} numbers",
                cause=f"expected {dim // 2} numbers from {low:g} to {high:g}",
            )
        return divided(theta, dim, [divisor * factor for divisor in divisors], "llama3")
    return plain(theta, dim) if factor == 1.0 else linear(theta, dim, factor)
