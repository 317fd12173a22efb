"""A real server of a toy model that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boli.engine.batch import Batch, Float32
from engine.toy_llm import IM_END
from server.running import Running, toy_server, until
from text.tool_templates import HERMES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["serve.md", "serve.zh-CN.md"]
WEATHER_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TIME_CALL = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


class Told:
    """The server. Requests that run at the same time must have prompts of the same length.

    Attributes:
        server: It.
        asked: The messages of each answer that has ended, as the chat template took them.
    """

    def __init__(self) -> None:
        self.server: Running
        self.asked: list[Any] = []
        self._script: list[int] = []

    def __call__(self, batch: Batch, logits: Float32) -> None:
        """Speaks, as a hook of the toy runner; what a request forbids leaves its choice to chance."""
        running = self.server.llm._engine.scheduler.running
        first = running[0].prompt_length - 1
        for index, row in enumerate(batch.logits_rows):
            place = int(batch.positions[row]) - first
            logits[index, self._script[place] if place < len(self._script) else IM_END] = 100.0

    @property
    def url(self) -> str:
        """What clients of OpenAI's API are given."""
        return f"{self.server.url}/v1"

    def says(self, text: str) -> None:
        """Sets what all further answers are, as far as the request allows them."""
        self._script = self.server.llm.tokenizer.encode(text, add_special_tokens=False, parse_special=False)
        self.asked.clear()

    def conversations(self, count: int) -> list[Any]:
        """What was asked since the last `says`, which was so many answers."""
        until(lambda: len(self.asked) >= count)
        assert len(self.asked) == count
        return self.asked

    def typed(self, code: str) -> str:
        """What a page of the documentation says to type, with this server in place of the reader's."""
        return code.replace("http://127.0.0.1:8000", self.server.url).replace("smollm2", "toy")


@contextmanager
def told_server(folder: Path) -> Iterator[Told]:
    """Serves it, with a template that has tools."""
    told = Told()
    with toy_server(folder, context=2048, num_pages=400, hook=told, chat_template=HERMES) as server:
        told.server = server
        server.service.on_end.append(lambda answer: told.asked.append(answer.job.messages))
        yield told


def example(page: str, client: str) -> str:
    """The first block of code behind a client's name on a page of the documentation."""
    behind = (DOCS / page).read_text(encoding="utf-8").partition(f"**{client}**")[2]
    found = re.search(r"^```\w+\n(.*?)^```", behind, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]
