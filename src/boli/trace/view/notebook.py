"""A trace in a notebook: static HTML without scripts, and text where there is no HTML."""

from __future__ import annotations

import io
from typing import Final

from boli.trace.view.decision import decision_walk
from boli.trace.view.difference import comparison
from boli.trace.view.html import folded, fragment, rendered
from boli.trace.view.parts import Language
from boli.trace.view.reading import Document, Reading
from boli.trace.view.summary import summary

_STEPS: Final = 6  # decisions that can be opened; a notebook keeps all of it in its file
_TEXT_WIDTH: Final = 100


def to_html(document: Document, *, language: Language = "en") -> str:
    """A trace as HTML that a notebook shows: the summary, and the first decisions to be opened.

    It needs nothing from elsewhere, has no scripts, and takes the colours of the page around it.

    Args:
        document: A trace, schema "boli-trace/1".
        language: "en" or "zh".
    """
    reading = Reading(document, language)
    say = reading.say
    parts = [rendered(summary(reading)), rendered(comparison(reading))]
    for step in range(min(len(reading.decisions), _STEPS)):
        title = say(f"Step {step}: {reading.chosen(step)}", f"第 {step} 步：{reading.chosen(step)}")
        parts.append(folded(title, rendered(decision_walk(reading, step))))
    return fragment("".join(parts))


def to_text(document: Document, *, language: Language = "en") -> str:
    """The summary of a trace as plain text."""
    from rich.console import Console  # noqa: PLC0415

    from boli.trace.view.terminal import print_walk  # noqa: PLC0415

    written = io.StringIO()
    console = Console(file=written, width=_TEXT_WIDTH, color_system=None, force_terminal=False)
    print_walk(document, console, language=language)
    return written.getvalue()
