"""What the tests of the writers tell them: a story of deltas, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from boli.server.retelling import Ending, Writer

Document = dict[str, Any]
STORY = [
    ("text", "I shall ask: 你"),
    ("text", "好 🙂"),
    ("call", "call_1", "weather"),
    ("arguments", '{"city": '),
    ("arguments", '"Paris"}'),
    ("call", "call_2", "time"),
    ("arguments", "{}"),
    ("text", " Done."),
]


def ending(
    reason: Literal["stop", "length", "tool_calls"] = "stop", *, stop_string: str | None = None
) -> Ending:
    return Ending(
        reason=reason,
        stop_string=stop_string,
        prompt_tokens=30,
        cached_tokens=20,
        completion_tokens=7,
        total_s=2.5,
        prefill_s=0.5,
        decode_s=1.25,
    )


def tell(writer: Writer, story: Sequence[tuple[str, ...]], end: Ending | None = None) -> list[Document]:
    """All events of a story."""
    events = writer.begin()
    for kind, *words in story:
        if kind == "text":
            events += writer.text(words[0], [])
        elif kind == "call":
            events += writer.call(words[0], words[1])
        else:
            events += writer.arguments(words[0])
    return events + writer.end(end or ending())
