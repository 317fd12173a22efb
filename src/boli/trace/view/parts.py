"""What chapters are made of. Each part is data; `terminal.py` and `html.py` say how it looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from boli.weigh.views import Column

__all__ = [
    "Bar", "Bars", "Bucket", "Column", "Facts", "Film", "Formula", "Frame", "Grid", "Heading", "Language",
    "Part", "Prose", "Ruler", "Say", "Table", "saying",
]  # fmt: skip

Language = Literal["en", "zh"]
Say = Callable[[str, str], str]


def saying(language: Language) -> Say:
    """Chooses between what is said in English and in Chinese."""
    return (lambda _, chinese: chinese) if language == "zh" else (lambda english, _: english)


@dataclass(frozen=True, slots=True)
class Heading:
    """Begins a chapter (level 1) or a section of one (2)."""

    text: str
    level: int = 1


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph; faint if it only comments on what stands before it."""

    text: str
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Formula:
    """An equation, and the line of boli's source that computed it."""

    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names, and what is said of each."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, rows of cells, and which rows stand out."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Frame:
    """One token of a filmstrip.

    Attributes:
        text: What it adds, ready to be shown.
        strength: How deep it is tinted, 0 to 1; None for none.
        notes: What stands below it.
    """

    text: str
    strength: float | None
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Film:
    """Tokens one after the other."""

    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix of shares as tinted cells, with or without text in them.

    Attributes:
        rows: A title for each row.
        columns: A title for each column; long ones are cut.
        values: `[rows][columns]`, 0 to 1; None leaves a cell empty.
        texts: What stands in each cell; a heat map has none.
        outlined: Cells `(row, column)` that stand out.
        most: The value with the deepest tint.
        aside: A title and a text for each row, which stands beside the cells.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    texts: Sequence[Sequence[str]] | None = None
    outlined: frozenset[tuple[int, int]] = frozenset()
    most: float = 1.0
    aside: tuple[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A name, a share of the whole from 0 to 1, and what is said beside it."""

    name: str
    share: float
    cells: Sequence[str] = ()
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars below each other, with columns of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token's share of the interval from 0 to 1."""

    text: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ruler:
    """The interval from 0 to 1 cut into buckets, and the number that hit one of them."""

    buckets: Sequence[Bucket]
    mark: float
    hit: int


Part = Heading | Prose | Formula | Facts | Table | Film | Grid | Bars | Ruler
