"""How a download tells whoever waits for it how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What `resolve` reports to; a terminal draws a bar from it, a server writes log lines.

    `start` and `finish` come in pairs; between them `advance` is called with the bytes that are new since
    the last call. All calls come from the thread that called `resolve`, or, while a hub's library downloads,
    from a thread of that library, never from two at once.
    """

    def start(self, label: str, total_bytes: int | None) -> None:
        """Something of `total_bytes` (None: not known) begins; `label` is for people."""

    def advance(self, bytes: int) -> None:
        """So many more bytes are here. Negative when a download had to begin again."""

    def finish(self) -> None:
        """It has ended, well or badly."""

    def notice(self, text: str) -> None:
        """A sentence that a person has to see before the model is used, such as licence terms."""


class Quiet:
    """The `Progress` of those who gave none: no bar, but notices still reach the log as warnings.

    A notice carries terms that must be shown, so even without a terminal it is not swallowed: with no logging
    configured Python prints warnings of a logger on stderr.
    """

    def start(self, label: str, total_bytes: int | None) -> None:
        """Nothing to draw."""

    def advance(self, bytes: int) -> None:
        """Nothing to draw."""

    def finish(self) -> None:
        """Nothing to draw."""

    def notice(self, text: str) -> None:
        """Log the text as a warning."""
        import logging  # noqa: PLC0415  most callers never need it

        logging.getLogger("boli.sources").warning("%s", text)
