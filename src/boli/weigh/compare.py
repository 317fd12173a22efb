"""Two accounts side by side: of two models, or of one before and after a change."""

from __future__ import annotations

from boli.weigh.account import Account, summary
from boli.weigh.amount import Amount, in_words, plain, scaled
from boli.weigh.views import Column, Section, Table, marked


def compare(
    first: Account, second: Account, *, title: str, names: tuple[str, str], changes_only: bool = False
) -> Section:
    """What both say of the same things, and how the second differs.

    Args:
        first: One account.
        second: The other.
        title: Of the section.
        names: What to call them.
        changes_only: Leave out what is the same.
    """
    here, there = summary(first), summary(second)
    rows = []
    for name in dict.fromkeys((*here, *there)):
        one, other = here.get(name), there.get(name)
        if changes_only and one is not None and other is not None and one.value == other.value:
            continue
        rows.append([name, _cell(one), _cell(other), *_difference(one, other)])
    columns = [
        Column(""), *(Column(name, numeric=True) for name in names), Column("ratio", numeric=True),
        Column("change", numeric=True, spare=True),
    ]  # fmt: skip
    explained = [
        (f"{which}: {name}", value)
        for which, amounts in zip(names, (here, there), strict=True)
        for name, value in amounts.items()
    ]
    notes = ["all else stays the same"] if changes_only and rows else []
    if not rows:
        return Section(title=title, notes=["nothing changes"])
    return Section(title=title, tables=[Table(columns, rows)], explained=explained, notes=notes)


def _cell(value: Amount | None) -> str:
    if value is None:
        return "-"
    if value.unit == "parameters":
        return f"{value.mark} {in_words(value.value)}"
    return marked(value) if value.unit in _LONG else f"{value.mark} {plain(value.value)}"


_LONG = {"bytes", "FLOP", "tokens/s"}  # counts stand without their unit, which the name says


def _difference(one: Amount | None, other: Amount | None) -> list[str]:
    """How many times as much, and how much more."""
    if one is None or other is None:
        return ["", ""]
    if one.value == other.value:
        return ["same", ""]
    change = other.value - one.value
    sign = "+" if change > 0 else "−"
    more = scaled(abs(change), one.unit.replace("bytes", "B")) if one.unit in _LONG else plain(abs(change))
    ratio = f"× {other.value / one.value:.3g}" if one.value * other.value > 0 else ""
    return [ratio, f"{sign}{more}"]
