"""The server's log: one line an event, with fields; no prompts, no keys, nothing that could forge a line."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, Literal

_LONGEST = 300  # characters of a value
_LOGGERS = ("boli.server", "uvicorn.error", "asyncio")


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Sends the server's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(style))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        # Others say at every start and end what boli says itself.
        logger.setLevel(level.upper() if name == "boli.server" else max(logging.WARNING, _number(level)))


def _number(level: str) -> int:
    return int(logging.getLevelNamesMapping()[level.upper()])


class Lines(logging.Formatter):
    """Formats events.

    An exception is shown by its type and where it came from. What it says may hold a prompt, so that
    is left to the level `debug`.

    Args:
        style: `text` for people, `json` for programs.
    """

    def __init__(self, style: Literal["text", "json"]) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, Any] = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            fields |= _told(record.exc_info[1], whole=_whole())
        event = record.getMessage()[:_LONGEST]
        if self._json:
            head = {"time": self._time(record), "level": record.levelname.lower(), "event": event}
            return json.dumps({**head, **{name: _short(value) for name, value in fields.items()}})
        parts = [self._time(record), record.levelname.lower().ljust(7), _plain(event)]
        parts += [f"{name}={_plain(value)}" for name, value in fields.items()]
        return " ".join(parts)

    def _time(self, record: logging.LogRecord) -> str:
        moment = time.gmtime(record.created)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{int(record.msecs):03}Z"


def _whole() -> bool:
    return logging.getLogger("boli.server").getEffectiveLevel() <= logging.DEBUG


def _told(error: BaseException, *, whole: bool) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{_file(each.filename)}:{each.lineno} {each.name}" for each in reversed(frames))
    told: dict[str, Any] = {"error": type(error).__name__, "at": where}
    return {**told, "says": str(error)} if whole else told


def _file(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def _short(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


def _plain(value: Any) -> str:
    """A value on one line, in quotes and escaped unless it is plain."""
    text = str(value)[:_LONGEST]
    if text and text.isascii() and text.isprintable() and not set(text) & set(' "='):
        return text
    return json.dumps(text)
