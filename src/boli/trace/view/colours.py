"""How deep a number is tinted: colours where there are any, else characters that look as dense."""

from __future__ import annotations

from typing import Final

from rich.color import Color
from rich.style import Style

# From dark to light in steps that look equal, also to those who do not tell red from green.
_RAMP: Final = ("#1b2033", "#26456e", "#2f6f9f", "#3d9a82", "#a9b84c", "#f3c04b", "#fff0bd")
_SHADES: Final = "·░▒▓█"
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_LIGHT: Final = 3.6  # from this place of the ramp on dark letters are read better

NO_TINT: Final = Style()


def tint(value: float) -> Style:
    """A background for a value from 0 to 1, with letters that can be read on it."""
    place = min(max(value, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    first, second = (Color.parse(_RAMP[n]).get_truecolor() for n in (low, low + 1))
    red, green, blue = (round(a + (b - a) * (place - low)) for a, b in zip(first, second, strict=True))
    ink = "#10131c" if place >= _LIGHT else "#f2f4f8"
    return Style(color=ink, bgcolor=Color.from_rgb(red, green, blue))


def shade(value: float) -> str:
    """A character as dense as a value from 0 to 1; a space for nothing."""
    return " " if value <= 0.0 else _pick(_SHADES, value)


def level(value: float) -> str:
    """A block as high as a value from 0 to 1; a space for nothing."""
    return " " if value <= 0.0 else _pick(_LEVELS, value)


def _pick(characters: str, value: float) -> str:
    return characters[min(int(value * len(characters)), len(characters) - 1)]
