"""A trace in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from boli.errors import UsageError
from boli.trace.view.attention import head_walk
from boli.trace.view.decision import decision_walk
from boli.trace.view.difference import comparison, one_comparison
from boli.trace.view.layer import layer_walk
from boli.trace.view.parts import Language, Part
from boli.trace.view.reading import Document, Reading
from boli.trace.view.screen import Screen
from boli.trace.view.summary import closer, summary


def print_walk(
    document: Document,
    console: Console,
    *,
    step: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    language: Language = "en",
    hide_sink: bool = False,
) -> None:
    """Writes a trace as a text to be read.

    Without a number it is a summary of the run. `step` tells one decision chapter by chapter; `layer`
    goes through one layer of it, and `head` shows where one head looked. A layer without a step is that
    of the first decision. What another format would have said there follows, if the trace was compared.

    Args:
        document: A trace, schema "boli-trace/1".
        console: Where to. Its width and colours are used; without colours shades stand for them.
        step: A decision, from 0.
        layer: A layer, from 0.
        head: A head of that layer, from 0.
        language: "en" or "zh".
        hide_sink: Leave the first token out of maps of attention; its share is still told beside them.

    Raises:
        UsageError: The trace has no such step, layer or head, or a head was asked for without a layer.
    """
    reading = Reading(document, language, hide_sink=hide_sink)
    Screen(console).show(list(chapters(reading, step=step, layer=layer, head=head)))


def print_compare(document: Document, console: Console, *, language: Language = "en") -> None:
    """Writes how a trace compares with that of the same tokens in another format.

    Args:
        document: A trace with the section `compare`.
        console: Where to.
        language: "en" or "zh".
    """
    Screen(console).show(list(comparison(Reading(document, language))))


def chapters(
    reading: Reading, *, step: int | None = None, layer: int | None = None, head: int | None = None
) -> Iterator[Part]:
    """What `print_walk` writes, as parts."""
    if head is not None and layer is None:
        raise UsageError("a head is one of a layer", remedy="name the layer, too: --layer N --head N")
    if layer is not None:
        reading.decision(step or 0)
        reading.layer(layer)
        if head is not None:
            yield from head_walk(reading, step or 0, layer, head)
        else:
            yield from layer_walk(reading, step or 0, layer)
        yield from one_comparison(reading, step or 0)
    elif step is not None:
        yield from decision_walk(reading, step)
        yield from one_comparison(reading, step)
    else:
        yield from summary(reading)
        yield from comparison(reading)
        yield from closer(reading)
