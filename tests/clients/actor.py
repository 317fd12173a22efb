"""A toy model whose answers are a function of its prompts, for real programs to talk to."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from boli.engine.batch import Batch, Float32
from boli.text import Tokenizer
from engine.toy_llm import IM_END, IM_START
from server.running import Running, toy_server
from text.tool_templates import HERMES

PAGE = 16
PAGES = 16384
CONTEXT = 8 * PAGES  # tokens, which are bytes here: agents begin with 100,000 of them
PATIENCE = 240.0  # seconds for a program
_HEADER = len("<|im_start|>assistant\n") - len("<|im_start|>") + 1  # tokens


class Actor:
    """A hook for the toy runner. It reads prompts back from where the engine put them, page by page.

    Args:
        answer: What is said to a prompt.

    Attributes:
        tokenizer: Of the model; set it before the first request.
        prompts: All that it was given, in order.
    """

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.tokenizer: Tokenizer | None = None
        self.prompts: list[str] = []
        self._answer = answer
        self._held = np.zeros((PAGES, PAGE), np.int64)
        self._scripts: dict[bytes, list[int]] = {}

    def __call__(self, batch: Batch, logits: Float32) -> None:
        places = batch.page_tables[batch.sequence_of_row, batch.positions // PAGE]
        self._held[places, batch.positions % PAGE] = batch.token_ids
        for index, row in enumerate(batch.logits_rows):
            past = np.arange(batch.positions[row] + 1)
            table = batch.page_tables[batch.sequence_of_row[row]]
            ids = self._held[table[past // PAGE], past % PAGE]
            begin = int(np.flatnonzero(ids == IM_START)[-1]) + _HEADER
            script = self._script(ids[:begin])
            said = len(ids) - begin
            # What a grammar forbids leaves the choice to chance.
            logits[index, script[said] if said < len(script) else IM_END] = 100.0

    def _script(self, prompt: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
        key = prompt.tobytes()
        if key not in self._scripts:
            assert self.tokenizer is not None
            text = self.tokenizer.decode(prompt.tolist(), skip_special_tokens=False)
            self.prompts.append(text)
            said = self.tokenizer.encode(self._answer(text), add_special_tokens=False, parse_special=False)
            self._scripts[key] = [*said, IM_END]
        return self._scripts[key]


@contextmanager
def acting(
    folder: Path, answer: Callable[[str], str], *, context: int = CONTEXT
) -> Iterator[tuple[Running, Actor]]:
    """A server of a model, called `toy`, that answers prompts this way and knows tools."""
    actor = Actor(answer)
    with toy_server(
        folder,
        hook=actor,
        chat_template=HERMES,
        context=context,
        num_pages=PAGES,
        page_size=PAGE,
        max_rows=512,
    ) as server:
        actor.tokenizer = server.llm.tokenizer
        yield server, actor


def reader_of(note: Path, tool: str, argument: str) -> Callable[[str], str]:
    """An agent that reads a file, by a tool whose argument is a path, and repeats the password in it."""

    def answer(prompt: str) -> str:
        result = prompt.rpartition("<tool_response>")[2]
        if "</tool_response>" not in result:
            return "I look.\n" + called(tool, json.dumps({argument: str(note)}))
        found = re.search(r"the password is (\S+)", result)
        return f"It says {found[1]}." if found else f"I do not know: {result}"

    return answer


def called(name: str, arguments: str) -> str:
    """A call as the model writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def finished(command: list[str], home: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a program did that knows nothing of this user, nor of any setting but these."""
    path = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}
    return subprocess.run(
        command, cwd=home, env=path | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
