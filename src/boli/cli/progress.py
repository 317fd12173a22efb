"""How far a download is: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from boli.cli.terminal import human_bytes, is_terminal, note, visible, width

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 30.0
_NARROW = 60


class TerminalProgress:
    """A `boli.sources.Progress` that writes to stderr.

    Use it as a context manager: however the block ends, the bar is ended and the cursor is back.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._started: float | None = None
        self._last_line = 0.0

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begins something of `total_bytes` bytes (None: nobody knows) that is called `label`."""
        self.finish()
        self._label, self._total, self._done = visible(label), total_bytes, 0
        self._started = self._last_line = time.monotonic()
        if is_terminal(sys.stderr):
            self._bar = _new_bar()
            self._bar.add_task(self._label, total=total_bytes)
            self._bar.start()
        else:
            size = "" if total_bytes is None else f" ({human_bytes(total_bytes)})"
            note(f"{self._label}{size}")

    def advance(self, bytes: int) -> None:
        """Adds bytes that have come; a negative number takes back what has to come again."""
        self._done += bytes
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], bytes)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            note(f"{self._label}: {self._so_far()}")

    def finish(self) -> None:
        """Ends what was begun, well or badly. Does nothing if nothing was begun."""
        if self._started is None:
            return
        seconds = time.monotonic() - self._started
        self._started = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        else:
            note(f"{self._label}: {self._so_far()} in {seconds:.1f} s")

    def notice(self, text: str) -> None:
        """Shows a sentence that a person has to see."""
        if self._bar is None:
            note(text)
        else:  # above the bar
            self._bar.console.print(visible(text, lines=True), markup=False, highlight=False)

    def _so_far(self) -> str:
        if not self._total:
            return human_bytes(self._done)
        return f"{human_bytes(self._done)} of {human_bytes(self._total)}"


def _new_bar() -> Progress:
    """A bar with as much beside it as the terminal has room for."""
    from rich import progress  # noqa: PLC0415  60 ms that only a download needs
    from rich.console import Console  # noqa: PLC0415

    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
    ]
    if (width(sys.stderr) or 0) >= _NARROW:
        columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    columns.append(progress.TimeRemainingColumn(compact=True))
    return progress.Progress(*columns, console=Console(stderr=True), expand=True)
