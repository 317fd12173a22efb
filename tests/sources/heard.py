"""A `boli.sources.Progress` that remembers what it was told."""

from __future__ import annotations


class Heard:
    def __init__(self) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.nbytes = 0
        self.finished = 0
        self.notices: list[str] = []

    def start(self, label: str, total_bytes: int | None) -> None:
        self.started.append((label, total_bytes))

    def advance(self, bytes: int) -> None:
        self.nbytes += bytes

    def finish(self) -> None:
        self.finished += 1

    def notice(self, text: str) -> None:
        self.notices.append(text)
