"""An answer as Anthropic's Messages API writes it: a message of blocks, and the events that build it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json

from boli.server.retelling import Document, Ending

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageWriter:
    """Writes one message.

    Every method gives the events that it causes. Whoever wants only the message at the end leaves them.

    Args:
        identifier: Of the message.
        model: What replies call the model.
        prompt_tokens: How many the prompt has.

    Attributes:
        document: The message so far; the input of a tool is in it when its block has ended.
    """

    def __init__(self, identifier: str, model: str, prompt_tokens: int) -> None:
        self.document: Document = {
            "id": identifier,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(prompt_tokens, 0, 0),
        }
        self._prompt_tokens = prompt_tokens
        self._arguments: list[str] | None = None  # of the tool whose block is open
        self._open = False

    def begin(self) -> list[Document]:
        """`message_start`. What came from the cache is not known yet; `message_delta` corrects it."""
        return [{"type": "message_start", "message": {**self.document, "content": []}}]

    def text(self, delta: str, logprobs: Sequence[Document]) -> list[Document]:
        """More text. This API knows no log-probabilities."""
        events = []
        if not self._open or self._arguments is not None:
            events = [*self._end_block(), self._begin_block({"type": "text", "text": ""})]
        self._block["text"] += delta
        return [*events, self._delta({"type": "text_delta", "text": delta})]

    def call(self, call_id: str, name: str) -> list[Document]:
        """The beginning of a tool's use."""
        events = self._end_block()
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        events.append(self._begin_block(block))
        self._arguments = []
        return events

    def arguments(self, delta: str) -> list[Document]:
        """More of the input of the tool that was begun last, as JSON."""
        assert self._arguments is not None, "arguments follow a call"
        self._arguments.append(delta)
        return [self._delta({"type": "input_json_delta", "partial_json": delta})]

    def end(self, ending: Ending) -> list[Document]:
        """`message_delta` and `message_stop`."""
        events = self._end_block()
        usage = _usage(ending.prompt_tokens, ending.cached_tokens, ending.completion_tokens)
        stop = {
            "stop_reason": "stop_sequence" if ending.stop_string else _STOP_REASONS[ending.reason],
            "stop_sequence": ending.stop_string,
        }
        self.document |= {**stop, "usage": usage, **ending.extra}
        delta = {"type": "message_delta", "delta": stop, "usage": usage, **ending.extra}
        return [*events, delta, {"type": "message_stop"}]

    @property
    def _index(self) -> int:
        return len(self.document["content"]) - 1

    @property
    def _block(self) -> Document:
        block: Document = self.document["content"][-1]
        return block

    def _begin_block(self, block: Document) -> Document:
        self.document["content"].append(block)
        self._open, self._arguments = True, None
        return {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _delta(self, delta: Document) -> Document:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _end_block(self) -> list[Document]:
        if not self._open:
            return []
        if self._arguments is not None:
            self._block["input"] = input_of("".join(self._arguments))
        self._open = False
        return [{"type": "content_block_stop", "index": self._index}]


def input_of(arguments: str) -> Document:
    """A tool's arguments as an object; of a text that was cut off, what is whole."""
    try:
        parsed = from_json(arguments, allow_partial=True)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _usage(prompt: int, cached: int, generated: int) -> Document:
    """Counts of tokens; this API counts what came from the cache apart."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": generated,
    }
