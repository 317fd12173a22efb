"""What an account says, as titles, facts and tables: the same for the terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from boli.weigh.amount import MARKS, Amount, readable_bytes


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: What stands at its top.
        numeric: Its cells stand to the right.
        spare: It is left out where there is little room.
    """

    title: str
    numeric: bool = False
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and rows with a cell for each."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the account.

    Attributes:
        title: Its name.
        facts: Names with what is said of them; before the tables.
        tables: What is best seen in rows.
        explained: Amounts whose formulas stand behind the numbers, by what they are.
        notes: What a reader should know.
        not_modelled: What is missing from the numbers.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    explained: Sequence[tuple[str, Amount]] = ()
    notes: Sequence[str] = ()
    not_modelled: Sequence[str] = ()


@dataclass(slots=True)
class Facts:
    """Facts with their formulas, as they are collected."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    explained: list[tuple[str, Amount]] = field(default_factory=list)

    def say(self, name: str, text: str) -> None:
        """A fact in words."""
        self.lines.append((name, text))

    def tell(self, name: str, value: Amount, more: str = "") -> None:
        """An amount: with the mark of its certainty, and its formula behind it."""
        self.lines.append((name, marked(value) + (f"  {more}" if more else "")))
        self.explained.append((name, value))


LEGEND = "   ".join(f"{mark} {certainty}" for certainty, mark in MARKS.items())


def marked(value: Amount) -> str:
    """An amount with the mark of its certainty: `= 4.58 GiB (4.91 GB)`."""
    return f"{value.mark} {value.readable()}"


class Unit:
    """A unit of bytes for a whole column, in powers of 1024 and of 1000."""

    def __init__(self, sizes: Iterable[float]) -> None:
        most = max(sizes, default=0)
        powers = (("T", 4), ("G", 3), ("M", 2), ("k", 1))
        letter, power = next((each for each in powers if most >= 1024 ** each[1]), ("", 0))
        self.binary, self.decimal = (f"{letter.upper()}iB", f"{letter}B") if letter else ("B", "B")
        self._power = power

    @property
    def columns(self) -> list[Column]:
        """The two columns."""
        return [Column(self.binary, numeric=True), Column(self.decimal, numeric=True)]

    def cells(self, size: float) -> list[str]:
        """A size in both."""
        return [self._cell(size, 1024), self._cell(size, 1000)]

    def _cell(self, size: float, step: int) -> str:
        if not self._power or not size:
            return f"{size:,.0f}"
        value = size / step**self._power
        return f"{value:,.2f}" if abs(value) >= 0.005 else "< 0.01"


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in few words: `0–3, 6, 9–11`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def by_size(sizes: Mapping[str, int]) -> str:
    """Sizes by name on a line."""
    return ", ".join(f"{name} {readable_bytes(size)}" for name, size in sizes.items())
