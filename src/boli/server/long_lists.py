"""JSON of long lists, written in a thread and in pieces.

While the encoder writes a list no other thread runs, the event loop's neither. So a list of a million numbers
is written a few thousand at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

_AT_ONCE = 4096


def long_list(values: Sequence[object]) -> str:
    """A list as JSON."""
    pieces = (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
    return joined(_dumped(piece)[1:-1] for piece in pieces)


def joined(items: Iterable[str]) -> str:
    """A list of what is JSON already."""
    return f"[{','.join(items)}]"


def document(short: Mapping[str, Any], **long: str) -> bytes:
    """An object as JSON.

    Args:
        short: Its small values.
        long: Those that are JSON already.
    """
    items = chain(
        (f"{_dumped(name)}:{_dumped(value)}" for name, value in short.items()),
        (f"{_dumped(name)}:{text}" for name, text in long.items()),
    )
    return f"{{{','.join(items)}}}".encode()


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
