"""An answer as OpenAI's Responses API writes it: a document that grows, and the events that say how."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from boli.server.retelling import Document, Ending


class ResponseWriter:
    """Writes one response.

    Every method gives the events that it causes. Whoever wants only the document at the end leaves them.

    Args:
        identifier: Of the response.
        facts: What the response repeats of its request: model, tools, temperature and so on.

    Attributes:
        document: The response so far.
    """

    def __init__(self, identifier: str, facts: Mapping[str, Any]) -> None:
        self.document: Document = {
            "id": identifier,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **facts,
        }
        self._sequence = 0

    def begin(self) -> list[Document]:
        """`response.created` and `response.in_progress`."""
        return [
            self._event(f"response.{name}", response=self._snapshot()) for name in ("created", "in_progress")
        ]

    def text(self, delta: str, logprobs: Sequence[Document]) -> list[Document]:
        """More text of the message.

        Args:
            delta: The text.
            logprobs: Of its tokens, as chat completions write them, if they were asked for.
        """
        events = [] if self._open("message") else [*self._end_item(), *self._begin_message()]
        part = self._item["content"][0]
        part["text"] += delta
        part["logprobs"] += logprobs
        events.append(
            self._event(
                "response.output_text.delta",
                item_id=self._item["id"],
                output_index=self._index,
                content_index=0,
                delta=delta,
                logprobs=[_without_bytes(entry) for entry in logprobs],
            )
        )
        return events

    def call(self, call_id: str, name: str) -> list[Document]:
        """The beginning of a function call."""
        events = self._end_item()
        item = {
            "id": f"fc_{secrets.token_hex(16)}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": call_id,
            "name": name,
            "arguments": "",
        }
        return [*events, self._begin_item(item)]

    def arguments(self, delta: str) -> list[Document]:
        """More of the arguments of the call that was begun last."""
        self._item["arguments"] += delta
        return [
            self._event(
                "response.function_call_arguments.delta",
                item_id=self._item["id"],
                output_index=self._index,
                delta=delta,
            )
        ]

    def end(self, ending: Ending) -> list[Document]:
        """`response.completed`, or `response.incomplete` if there was no room for more."""
        status = "incomplete" if ending.reason == "length" else "completed"
        events = [] if self.document["output"] else self._begin_message()
        events += self._end_item(status)
        if status == "incomplete":
            self.document["incomplete_details"] = {"reason": "max_output_tokens"}
        self.document |= ending.extra
        return [*events, self._end(status, _usage(ending))]

    def fail(self, message: str) -> list[Document]:
        """`response.failed`: what went wrong after the first event was sent."""
        self.document["error"] = {"code": "server_error", "message": message}
        return [self._end("failed", None)]

    @property
    def _index(self) -> int:
        return len(self.document["output"]) - 1

    @property
    def _item(self) -> Document:
        item: Document = self.document["output"][-1]
        return item

    def _open(self, kind: str) -> bool:
        output = self.document["output"]
        return bool(output) and output[-1]["type"] == kind and output[-1]["status"] == "in_progress"

    def _begin_message(self) -> list[Document]:
        message = {
            "id": f"msg_{secrets.token_hex(16)}",
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        added = self._begin_item(message)
        part: Document = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._item["content"].append(part)
        return [added, self._part_event("response.content_part.added")]

    def _begin_item(self, item: Document) -> Document:
        self.document["output"].append(item)
        return self._event("response.output_item.added", output_index=self._index, item=_copy(item))

    def _end_item(self, status: str = "completed") -> list[Document]:
        if not self.document["output"] or self._item["status"] != "in_progress":
            return []
        item, place = self._item, {"item_id": self._item["id"], "output_index": self._index}
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            events = [
                self._event(
                    "response.output_text.done",
                    **place,
                    content_index=0,
                    text=part["text"],
                    logprobs=[_without_bytes(entry) for entry in part["logprobs"]],
                ),
                self._part_event("response.content_part.done"),
            ]
        else:
            events = [
                self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            ]
        done = self._event("response.output_item.done", output_index=self._index, item=_copy(item))
        return [*events, done]

    def _part_event(self, name: str) -> Document:
        item = self._item
        return self._event(
            name,
            item_id=item["id"],
            output_index=self._index,
            content_index=0,
            part=_copy(item)["content"][0],
        )

    def _end(self, status: str, usage: Document | None) -> Document:
        self.document |= {"status": status, "usage": usage}
        if status == "completed":
            self.document["completed_at"] = int(time.time())
        return self._event(f"response.{status}", response=self._snapshot())

    def _snapshot(self) -> Document:
        return {**self.document, "output": [_copy(item) for item in self.document["output"]]}

    def _event(self, kind: str, /, **values: Any) -> Document:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, **values}


def _usage(ending: Ending) -> Document:
    return {
        "input_tokens": ending.prompt_tokens,
        "input_tokens_details": {"cached_tokens": ending.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": ending.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ending.prompt_tokens + ending.completion_tokens,
    }


def _copy(item: Document) -> Document:
    """An item as it is now; what an event shows must not grow afterwards."""
    if item["type"] != "message":
        return dict(item)
    parts = [{**part, "logprobs": list(part["logprobs"])} for part in item["content"]]
    return {**item, "content": parts}


def _without_bytes(entry: Mapping[str, Any]) -> Document:
    """A log-probability as events show it."""
    top = [{"token": each["token"], "logprob": each["logprob"]} for each in entry["top_logprobs"]]
    return {"token": entry["token"], "logprob": entry["logprob"], "top_logprobs": top}
