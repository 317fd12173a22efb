"""An answer as Ollama writes it: lines of JSON, the last of which says how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from boli.server.messages_stream import input_of
from boli.server.retelling import Document, Ending


class OllamaWriter:
    """Writes the answer to one request, of `/api/chat` or of `/api/generate`.

    Every method gives the lines that it causes. A function call is one line, when it is whole: here
    arguments are an object, and no text that grows.

    Args:
        model: As the client named it.
        chat: Whether the text goes into a message or stands by itself.

    Attributes:
        document: The answer in one piece, when `end` was called.
    """

    def __init__(self, model: str, *, chat: bool) -> None:
        self.document: Document = {}
        self._model = model
        self._chat = chat
        self._texts: list[str] = []
        self._calls: list[Document] = []
        self._logprobs: list[Document] = []
        self._call: tuple[str, str, list[str]] | None = None

    def begin(self) -> list[Document]:
        """Nothing: every line has text, a call or the end."""
        return []

    def text(self, delta: str, logprobs: Sequence[Document]) -> list[Document]:
        """More text."""
        lines = self._end_call()
        self._texts.append(delta)
        self._logprobs += logprobs
        return [*lines, self._line(delta, (), logprobs)]

    def call(self, call_id: str, name: str) -> list[Document]:
        """The beginning of a function call."""
        lines = self._end_call()
        self._call = (call_id, name, [])
        return lines

    def arguments(self, delta: str) -> list[Document]:
        """More of the arguments of the call that was begun last."""
        assert self._call is not None, "arguments follow a call"
        self._call[2].append(delta)
        return []

    def end(self, ending: Ending) -> list[Document]:
        """The last line."""
        lines = self._end_call()
        reason = "length" if ending.reason == "length" else "stop"
        last = {"done": True, "done_reason": reason, **_figures(ending), **ending.extra}
        self.document = self._line("".join(self._texts), self._calls, self._logprobs) | last
        return [*lines, self._line("", (), ()) | last]

    def _end_call(self) -> list[Document]:
        if self._call is None:
            return []
        call_id, name, arguments = self._call
        self._call = None
        call = {
            "id": call_id,
            "function": {"index": len(self._calls), "name": name, "arguments": input_of("".join(arguments))},
        }
        self._calls.append(call)
        return [self._line("", [call], ())]

    def _line(self, text: str, calls: Sequence[Document], logprobs: Sequence[Document]) -> Document:
        line: Document = {"model": self._model, "created_at": now()}
        if self._chat:
            message: Document = {"role": "assistant", "content": text}
            line["message"] = message | ({"tool_calls": list(calls)} if calls else {})
        else:
            line["response"] = text
        return line | ({"logprobs": list(logprobs)} if logprobs else {}) | {"done": False}


def _figures(ending: Ending) -> Document:
    """Counts and durations; the model was there, so that no request waits for it to be loaded."""
    return {
        "total_duration": nanoseconds(ending.total_s),
        "load_duration": 0,
        "prompt_eval_count": ending.prompt_tokens,
        "prompt_eval_duration": nanoseconds(ending.prefill_s),
        "eval_count": ending.completion_tokens,
        "eval_duration": nanoseconds(ending.decode_s),
    }


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama writes it."""
    return round(seconds * 1e9)
