"""How `boli trace` writes a trace: the console for the terminal that there is, and the language."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from boli.cli.terminal import has_colours, width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from boli.trace.view.parts import Language

_PIPED = 100  # cells of a line where nobody says how wide it may be


def print_trace(
    document: Mapping[str, Any],
    *,
    step: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    language: Language = "en",
    hide_sink: bool = False,
) -> None:
    """Writes a trace to stdout; see `boli.trace.view.terminal.print_walk`.

    Raises:
        UsageError: The trace has no such step, layer or head.
    """
    from boli.trace.view.terminal import print_walk  # noqa: PLC0415  brings in rich

    print_walk(
        document,
        stdout_console(),
        step=step,
        layer=layer,
        head=head,
        language=language,
        hide_sink=hide_sink,
    )


def stdout_console() -> Console:
    """Stdout as rich writes to it: as wide as boli's tables, with colours where they have some."""
    from rich.console import Console  # noqa: PLC0415

    coloured = has_colours(sys.stdout)
    return Console(
        file=sys.stdout,
        width=width(sys.stdout) or _PIPED,
        force_terminal=coloured,
        no_color=not coloured,
        color_system="auto" if coloured else None,
        emoji=False,
        markup=False,
        highlight=False,
    )
