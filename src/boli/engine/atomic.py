"""Changes of the engine's books happen whole, or are undone."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Books:
    """Guards a change of the books: if it comes to its end, `done` is called, and `undo` if it does not."""

    def __init__(self, undo: Callable[[BaseException], None], done: Callable[[], None]) -> None:
        self._undo, self._done = undo, done

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._done()
        else:
            self._undo(error)
