"""A conversation: messages that can be edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from boli.engine.prompts import check_not_empty
from boli.engine.sampling import SamplingOptions, SamplingParams
from boli.engine.stream import Stream
from boli.engine.whole_file import write_whole

if TYPE_CHECKING:
    from boli.engine.llm import LLM


class Conversation:
    """Messages to and from a model. Made by `LLM.conversation`; for one thread at a time.

    Each turn renders and encodes all messages again, and the engine computes what comes after the
    longest beginning that it still knows. So the messages may be edited as one likes, and a template
    that rewrites history stays right.

    An answer that is interrupted (Ctrl-C, or a closed stream) stays in the messages as far as it got:
    what was seen was said. If nothing had come yet, or an error ended it, the question goes too, as if
    it had not been asked.

    Attributes:
        messages: Dictionaries with `role` and `content`, oldest first. A saved conversation is taken up
            again by putting its messages here.
    """

    def __init__(self, llm: LLM, system: str | None = None) -> None:
        self.messages: list[dict[str, str]] = []
        self._llm = llm
        self._open: Stream | None = None
        self.set_system(system)

    def send(self, text: str, **sampling: Unpack[SamplingOptions]) -> Stream:
        """Says something and streams the answer.

        Args:
            text: The user's message.
            sampling: Settings of `SamplingParams`.

        Returns:
            An iterator of chunks. When it ends, the answer is in `messages`.

        Raises:
            ContextLengthExceeded: The conversation is too long; it is left as it was.
            PromptError, SamplingError, TemplateError: The same.
        """
        self._interrupt()
        params = SamplingParams.from_options(sampling)
        check_not_empty(text)
        question = {"role": "user", "content": text}
        said = [*self.messages, question]
        self._open = self._llm._start(
            self._llm.render(said), params, messages=said, on_end=lambda stream: self._ended(stream, question)
        )
        self.messages.append(question)
        return self._open

    def undo(self) -> str | None:
        """Takes back the last question and what followed it.

        Returns:
            The question, or None if there was none.
        """
        self._interrupt()
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index]["role"] == "user":
                question = self.messages[index]["content"]
                del self.messages[index:]
                return question
        return None

    def set_system(self, text: str | None) -> None:
        """Sets the system message, in place of the one before; None or nothing takes it away."""
        self._interrupt()
        if self.messages and self.messages[0]["role"] == "system":
            del self.messages[0]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def save(self, path: str | Path) -> None:
        """Writes `{"model": …, "messages": […]}` as JSON, in one piece: the old file or the new one.

        Raises:
            StorageError: It could not be written.
        """
        document = {"model": self._llm.name, "messages": self.messages}
        write_whole(path, json.dumps(document, ensure_ascii=False, indent=2) + "\n", "the conversation")

    def close(self) -> None:
        """Ends an open answer. May be called twice."""
        self._interrupt()

    def _interrupt(self) -> None:
        """Ends what is still under way, so that the messages hold what was seen of it."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _ended(self, stream: Stream, question: dict[str, str]) -> None:
        self._open = None
        completion = stream.completion
        if completion.error is None and (completion.text or completion.finish_reason in ("stop", "length")):
            self.messages.append({"role": "assistant", "content": completion.text})
        elif self.messages and self.messages[-1] is question:
            self.messages.pop()
