"""SVG in a few lines: shapes, text that is escaped, and colours that follow the reader's light or dark.

A picture is one `<svg>` with its own style sheet, so that it is the same alone and inside a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

#: Width of one character of the pictures' font, in its size; wide enough for most text.
CHARACTER: Final = 0.56

# Colours of things, as (light, dark). Told apart also by those who do not see red and green alike.
_COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    "embeddings": ("#e9a23b", "#d9922b"),
    "head": ("#f3c77f", "#b57a24"),
    "attention": ("#4c86c6", "#4f8fd6"),
    "mlp": ("#3d9a82", "#3aa58a"),
    "experts": ("#3d9a82", "#3aa58a"),
    "shared_experts": ("#73c2ab", "#2b7d68"),
    "router": ("#a0527f", "#c06a9c"),
    "norms": ("#8a8f98", "#8a8f98"),
    "biases": ("#8a8f98", "#8a8f98"),
    "other": ("#8a8f98", "#8a8f98"),
    "fits": ("#3d9a82", "#2f8a72"),
    "tight": ("#e9a23b", "#b57a24"),
    "over": ("#e3e5e8", "#2a2d33"),
    **{
        f"type{number}": pair
        for number, pair in enumerate(
            (
                ("#4c86c6", "#4f8fd6"), ("#e9a23b", "#d9922b"), ("#3d9a82", "#3aa58a"),
                ("#a0527f", "#c06a9c"), ("#7a6fb0", "#8f84cc"), ("#b5654a", "#cc7a5c"),
                ("#6b8e3a", "#86ad4c"), ("#8a8f98", "#8a8f98"),
            )
        )
    },
}  # fmt: skip
#: How many colours there are for number formats; more of them share the last.
TYPE_COLOURS: Final = 8

_FONT = "ui-sans-serif, system-ui, 'Segoe UI', 'Noto Sans', 'PingFang SC', 'Microsoft YaHei', sans-serif"


def style() -> str:
    """The style sheet of all pictures."""

    def colours(dark: int) -> str:
        ink, faint, ground = (("#1d2026", "#666c77", "#ffffff"), ("#e8eaed", "#9aa0aa", "#15171b"))[dark]
        fills = "".join(f".f-{name}{{fill:{pair[dark]}}}" for name, pair in _COLOURS.items())
        return (
            f".boli text{{fill:{ink}}}.boli .faint{{fill:{faint}}}.boli .ground{{fill:{ground}}}"
            f".boli .ink{{fill:{ink}}}.boli .edge{{stroke:{ground}}}.boli .line{{stroke:{ink}}}"
            f".boli .thin{{stroke:{faint}}}{fills}"
        )

    return (
        f".boli text{{font-family:{_FONT};font-variant-numeric:tabular-nums}}"
        ".boli polyline{fill:none}"
        f"{colours(0)}@media (prefers-color-scheme:dark){{{colours(1)}}}"
        ".boli text.on{fill:#fff}.boli text.dark{fill:#1d2026}"
    )


@dataclass(slots=True)
class Picture:
    """A drawing that grows downwards.

    Attributes:
        title: For those who hear it read.
        width: In pixels.
        height: In pixels; drawing sets it.
    """

    title: str
    width: float
    height: float = 0
    _parts: list[str] = field(default_factory=list)

    def rectangle(
        self, x: float, y: float, width: float, height: float, kind: str, *, tip: str = "", edge: float = 0
    ) -> None:
        """A filled rectangle.

        Args:
            x: Left edge.
            y: Upper edge.
            width: In pixels.
            height: In pixels.
            kind: The name of its colour.
            tip: What is said when a pointer rests on it.
            edge: Width of a line in the background's colour around it.
        """
        classes = f"f-{kind}" + (" edge" if edge else "")
        stroke = f' stroke-width="{_number(edge)}"' if edge else ""
        self._shape(
            f'<rect class="{classes}"{stroke} x="{_number(x)}" y="{_number(y)}" '
            f'width="{_number(width)}" height="{_number(height)}"',
            "rect",
            tip,
        )

    def line(self, points: list[tuple[float, float]], *, thin: bool = False, weight: float = 1) -> None:
        """A line through points."""
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        kind = "thin" if thin else "line"
        self._parts.append(f'<polyline class="{kind}" stroke-width="{_number(weight)}" points="{path}"/>')

    def dot(self, x: float, y: float, radius: float, *, hollow: bool = False) -> None:
        """A circle, filled or not."""
        kind = "line ground" if hollow else "ink"
        size = f'cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}"'
        self._parts.append(f'<circle class="{kind}" stroke-width="1.6" {size}/>')

    def text(
        self, x: float, y: float, text: str, *, size: float = 12, anchor: str = "start", kind: str = "",
        bold: bool = False, most: float = 0, upright: bool = True,
    ) -> None:  # fmt: skip
        """Text, escaped; cut off with an ellipsis where it would be wider than `most`.

        Args:
            x: Where it is anchored.
            y: Its base line.
            text: Any text.
            size: Of the font, in pixels.
            anchor: "start", "middle" or "end".
            kind: "faint", "on" (a dark colour) or "".
            bold: Whether it is set bold.
            most: Its greatest width, if there is one.
            upright: False to turn it by 90 degrees, to be read upwards.
        """
        shown = shortened(text, most / size) if most else text
        if not shown:
            return
        classes = f' class="{kind}"' if kind else ""
        weight = ' font-weight="600"' if bold else ""
        turn = "" if upright else f' transform="rotate(-90 {_number(x)} {_number(y)})"'
        self._parts.append(
            f'<text{classes} x="{_number(x)}" y="{_number(y)}" font-size="{_number(size)}" '
            f'text-anchor="{anchor}"{weight}{turn}>{escape(shown)}</text>'
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Colours and what they mean, in one line whose base is at `y`, as many as it holds."""
        for kind, label in entries:
            if x + 16 + 12 * breadth(label) > self.width:
                return
            self.rectangle(x, y - 10, 11, 11, kind)
            self.text(x + 16, y, label)
            x += 16 + 12 * breadth(label) + 18

    def svg(self) -> str:
        """The document."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="boli" role="img" '
            f'viewBox="0 0 {_number(self.width)} {_number(self.height)}" '
            f'width="{_number(self.width)}" height="{_number(self.height)}">'
            f"<title>{escape(self.title)}</title><style>{style()}</style>"
            f'<rect class="ground" width="100%" height="100%"/>{"".join(self._parts)}</svg>\n'
        )

    def _shape(self, opening: str, name: str, tip: str) -> None:
        inside = f"><title>{escape(tip)}</title></{name}>" if tip else "/>"
        self._parts.append(opening + inside)


def stacked(title: str, pictures: list[Picture]) -> Picture:
    """Pictures one below the other."""
    whole = Picture(title, max(picture.width for picture in pictures))
    for picture in pictures:
        inner = "".join(picture._parts)
        whole._parts.append(f'<g transform="translate(0 {_number(whole.height)})">{inner}</g>')
        whole.height += picture.height
    return whole


def breadth(text: str) -> float:
    """About how wide a text is, in sizes of its font; Chinese characters are twice as wide."""
    return sum(1.0 if ord(character) > 0x2E7F else CHARACTER for character in text)


def shortened(text: str, most: float) -> str:
    """A text that is at most so many sizes of its font wide; "" if not even three characters are."""
    if breadth(text) <= most:
        return text
    kept = ""
    for character in text:
        if breadth(kept + character + "…") > most:
            break
        kept += character
    return f"{kept}…" if len(kept) > 2 else ""


def _number(value: float) -> str:
    """A coordinate with a hundredth of a pixel, as short as it can be."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
