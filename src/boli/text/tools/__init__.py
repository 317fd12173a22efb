"""Tool calls in text: how a chat template writes them, how to hold a model to that, how to read them.

    chat template ── format_of ──▶ ToolFormat ─┬─ calls_grammar ──▶ what may be written
                                               └─ ToolReader ─────▶ text and calls, piece by piece

Nothing here knows of engines or servers.
"""

from __future__ import annotations

from boli.text.tools.formats import ToolFormat, format_of
from boli.text.tools.grammar import Call, calls_grammar
from boli.text.tools.reader import CallArguments, CallStart, Event, Text, ToolReader

__all__ = [
    "Call",
    "CallArguments",
    "CallStart",
    "Event",
    "Text",
    "ToolFormat",
    "ToolReader",
    "calls_grammar",
    "format_of",
]
