"""How `boli trace` writes a trace: which part of it, in which language, for the terminal that there is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from boli.cli.terminal import has_colours, note, width
from boli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from boli.trace import Trace

_PIPED = 100  # cells of a line where nobody says how wide it may be


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Which part of a trace is shown, and how."""

    step: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this decision.", show_default=False)
    ] = None
    layer: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this layer.", show_default=False)
    ] = None
    head: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this head.", show_default=False)
    ] = None
    hide_sink: Annotated[
        bool,
        typer.Option("--hide-sink", help="Leave the first token out of attention; its share stands beside."),
    ] = False
    language: Annotated[
        Literal["en", "zh"], typer.Option(metavar="LANGUAGE", help="Of the text around: en, zh.")
    ] = "en"

    @property
    def is_part(self) -> bool:
        """Whether a step, a layer or a head is asked for, and not the whole run."""
        return self.step is not None or self.layer is not None or self.head is not None

    def check(self) -> None:
        """Refuses what no trace can show, before one is made.

        Raises:
            UsageError: A head is asked for without its layer.
        """
        if self.head is not None and self.layer is None:
            raise UsageError("a head is one of a layer", remedy="name the layer, too: --layer N --head N")


def print_trace(made: Trace, shown: Shown, *, compared: bool) -> None:
    """Writes a trace to stdout; see `boli.trace.view.terminal`.

    Args:
        made: The trace.
        shown: Which part.
        compared: Whether a comparison was asked for: of the whole run, nothing else is written then.

    Raises:
        UsageError: The trace has no such step, layer or head.
    """
    from boli.trace.view.terminal import print_compare, print_walk  # noqa: PLC0415  brings in rich

    document, console = made.document(), _console()
    if compared and not shown.is_part:
        print_compare(document, console, language=shown.language)
    else:
        print_walk(
            document,
            console,
            step=shown.step,
            layer=shown.layer,
            head=shown.head,
            language=shown.language,
            hide_sink=shown.hide_sink,
        )
    proof = made.proof
    if proof["largest_logit_difference"] or proof["differences"]:
        note(
            f"the replay differs from the run: {proof['largest_logit_difference']:g} in a logit"
            + "".join(f"; {each}" for each in proof["differences"]),
            "yellow",
        )


def _console() -> Console:
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
