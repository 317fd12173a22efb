"""What goes to the screen, and what the screen can do.

Results go to stdout, everything about them to stderr. Escape sequences are written only where they
are wanted: to a terminal that is not `TERM=dumb`, unless `NO_COLOR` is set (`FORCE_COLOR` turns
colours on elsewhere). Text from models and files is never trusted with the terminal: its control
characters are shown, not sent.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

Style = Literal["bold", "dim", "red", "yellow", "green", "cyan"]

_CODES: Mapping[Style, str] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "yellow": "33",
    "green": "32",
    "cyan": "36",
}

# C0 controls and DEL have pictures of their own in Unicode; C1 controls have none.
_VISIBLE = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}
_VISIBLE |= dict.fromkeys(range(128, 160), 0xFFFD)
_VISIBLE_LINES = {code: shown for code, shown in _VISIBLE.items() if chr(code) not in "\n\t"}


def prepare_streams(*, json_output: bool) -> None:
    """Makes stdout and stderr safe to write any text to.

    A character that the terminal's encoding lacks is replaced instead of ending the program.
    JSON is UTF-8 whatever the locale says.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller: `boli … >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            utf8 = json_output and name == "stdout"
            stream.reconfigure(encoding="utf-8" if utf8 else None, errors="replace")


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody is looking, on a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def has_colours(stream: TextIO) -> bool:
    """Whether to colour what is written to `stream`."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def styled(text: str, style: Style, stream: TextIO) -> str:
    """`text` in a style, if `stream` has colours."""
    return f"\033[{_CODES[style]}m{text}\033[0m" if text and has_colours(stream) else text


def width(stream: TextIO) -> int | None:
    """Cells in a line of `stream`; None if it is a file or a pipe, where lines have no end.

    `COLUMNS` says it for both.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with its control characters made visible (␛ for escape).

    Args:
        text: Text from outside.
        lines: Keep line feeds and tabs.
    """
    return text.translate(_VISIBLE_LINES if lines else _VISIBLE)


def quoted(text: str) -> str:
    """`text` in double quotes on one line, so that spaces at its ends and line feeds are seen."""
    return visible(json.dumps(text, ensure_ascii=False))


def human_bytes(count: int) -> str:
    """A number of bytes for people, in powers of 1000 as hubs and disks count: `98.4 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def print_json(document: object) -> None:
    """Writes one JSON document to stdout: UTF-8, one line.

    Raises:
        ValueError: It holds a NaN or an infinity, which JSON does not have.
    """
    sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def note(text: str, style: Style | None = None) -> None:
    """Writes a line about what happens to stderr."""
    sys.stdout.flush()  # so that the two streams meet in order where they meet
    shown = visible(text, lines=True)
    sys.stderr.write((styled(shown, style, sys.stderr) if style else shown) + "\n")
    sys.stderr.flush()
