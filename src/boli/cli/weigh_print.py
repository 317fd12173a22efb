"""How an account looks in a terminal: sections of facts and tables, and the formulas if asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from boli.cli.table import Column, fold, print_facts, print_table
from boli.cli.terminal import styled, visible, width
from boli.weigh.amount import Amount
from boli.weigh.views import LEGEND, Section, Table

_ROOMY = 120  # columns of a terminal that has room for everything
_INDENT = "  "


def print_sections(sections: Iterable[Section], *, explain: bool) -> None:
    """Writes sections to stdout, with the meaning of the marks at the end."""
    missing: dict[str, None] = {}
    for section in sections:
        _print_section(section, explain=explain)
        missing |= dict.fromkeys(section.not_modelled)
    if missing:
        _heading("Not modelled")
        for line in missing:
            _paragraph(f"- {line}", _INDENT)
        sys.stdout.write("\n")
    _paragraph(f"Marks: {LEGEND}")


def _print_section(section: Section, *, explain: bool) -> None:
    _heading(section.title)
    if section.facts:
        print_facts(section.facts)
    for number, table in enumerate(section.tables):
        if number or section.facts:
            sys.stdout.write("\n")
        _print_table(table)
    if section.notes:
        sys.stdout.write("\n")
        for note in section.notes:
            _paragraph(f"- {note}", _INDENT)
    if explain and section.explained:
        sys.stdout.write("\n")
        for name, value in section.explained:
            _explain(name, value)
    sys.stdout.write("\n")


def _heading(title: str) -> None:
    sys.stdout.write(styled(visible(title), "cyan", sys.stdout) + "\n")


def _print_table(table: Table) -> None:
    """Without the columns for which there is no room."""
    limit = width(sys.stdout)
    kept = [
        index
        for index, column in enumerate(table.columns)
        if not (column.spare and limit is not None and limit < _ROOMY)
        and (column.title or any(row[index] for row in table.rows))
    ]
    columns = [Column(table.columns[index].title, numeric=table.columns[index].numeric) for index in kept]
    print_table(columns, [[row[index] for index in kept] for row in table.rows])


def _explain(name: str, value: Amount) -> None:
    """A formula, and below it the same with numbers."""
    _paragraph(f"{name.strip()}: {value.formula}")
    shown = value.explain()
    if value.formula != shown:
        _paragraph(f"= {shown} ({value.certainty})", _INDENT * 2)
    if value.note:
        _paragraph(f"({value.note})", _INDENT * 2)


def _paragraph(text: str, indent: str = "") -> None:
    """A text on as many lines as it needs; what follows the first is indented."""
    limit = width(sys.stdout)
    lines: Sequence[str] = [visible(text)]
    if limit is not None and limit > len(indent) + 10:
        lines = fold(lines[0].replace("  ", " "), limit - len(indent) - 2)
    for number, line in enumerate(lines):
        sys.stdout.write(indent + ("  " if number else "") + line + "\n")
