"""Text of models, prompts and files as something that can be shown: nothing in it acts.

Control characters become pictures (␛), characters that are invisible or turn the direction of a line
become their names (⟨202E⟩). What is cut is cut by the cells that it takes in a terminal.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from rich.cells import cell_len, chop_cells, set_cell_size

from boli.cli.terminal import visible

_LONGEST: Final = 400  # characters of a text that are looked at before it is fitted into some cells
_MOST_MARKS: Final = 3  # combining marks on one letter; more of them run over the lines above
# Format characters (bidirectional marks, joiners, tags), line and paragraph separators, surrogates,
# private use, and what is not assigned.
_HIDDEN: Final = frozenset({"Cf", "Zl", "Zp", "Cs", "Co", "Cn"})
_OPEN, _CLOSE, _WIDE = r"“‘（《「\(\[", r"，。；：、？！”’）》」", r"\u2e80-\u2fff\u3040-\ud7ff\uf900-\ufaff"
# What stays together on a line: a Chinese character or a word, with the marks that open and close it.
_PIECES: Final = re.compile(
    rf"[{_OPEN}]*(?:[{_WIDE}]|[^\s{_OPEN}{_CLOSE}{_WIDE}]+)[{_CLOSE}]*\s*|[^\s][{_CLOSE}]*\s*|\s+"
)


def shown(text: str, *, lines: bool = False) -> str:
    """`text` with everything made visible that has no picture of its own.

    Args:
        text: From outside.
        lines: Keep line feeds and tabs.
    """
    parts: list[str] = []
    marks = 0
    for character in visible(text, lines=lines):
        category = unicodedata.category(character)
        if category in _HIDDEN:
            parts.append(f"⟨{ord(character):04X}⟩")
            marks = 0
        elif category in {"Mn", "Me"}:
            if not parts:
                parts.append("◌")  # else it would sit on whatever stands before the text
            marks += 1
            if marks <= _MOST_MARKS:
                parts.append(character)
        else:
            parts.append(character)
            marks = 0
    return "".join(parts)


def token_text(text: str, piece: str = "") -> str:
    """What a token adds to the text, so that spaces at its ends are seen.

    Args:
        text: What it adds; "" if that is only a part of a character.
        piece: Its entry in the vocabulary, which is shown then.
    """
    known = shown((text or piece)[:_LONGEST])
    inner = known.strip(" ")
    if not inner:
        return "␣" * len(known) or "∅"
    before = len(known) - len(known.lstrip(" "))
    return "␣" * before + inner + "␣" * (len(known) - before - len(inner))


def fitted(text: str, cells: int) -> str:
    """A text that takes exactly so many cells: filled with spaces, or cut with an ellipsis."""
    return set_cell_size(shortened(text, cells), cells)


def shortened(text: str, cells: int) -> str:
    """A text that takes at most so many cells."""
    text = text[:_LONGEST]
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(cells - 1, 0)).rstrip(" ") + "…" if cells > 0 else ""


def quoted(text: str, cells: int) -> str:
    """A text in quotes on one line, its middle left out if it is longer than so many cells."""
    known = shown(text)
    if cell_len(known) <= cells:
        return f"“{known}”"
    half = max((cells - 3) // 2, 1)
    head = set_cell_size(known, half).rstrip(" ")
    tail = known[-half:]
    while cell_len(tail) > half:
        tail = tail[1:]
    return f"“{head} … {tail}”"


def wrapped(text: str, cells: int) -> list[str]:
    """A paragraph on lines of at most so many cells.

    Lines end at spaces and between Chinese characters, never before a closing mark.
    """
    lines, line = [], ""
    for part in _PIECES.findall(text):
        if line and cell_len(line + part.rstrip(" ")) > cells:
            lines.append(line.rstrip(" "))
            line = ""
        *whole, last = chop_cells(part, cells) or [""]  # a word that fits on no line is cut anywhere
        lines += whole
        line += last
    return [*lines, line.rstrip(" ")]
