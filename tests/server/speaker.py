"""A toy model that says what a test wants it to say."""

from __future__ import annotations

import time
from functools import cache

from tokenizers import pre_tokenizers

from boli.engine.batch import Batch, Float32
from engine.toy_llm import IM_END


class Speaker:
    """A hook of the toy runner: says a text behind a prompt, and that it is done. One request at a time.

    Attributes:
        breaks_at: The place in the text where the runner fails, if it shall.
        pauses_at: The place where it takes half a second.
    """

    def __init__(self) -> None:
        self.breaks_at: int | None = None
        self.pauses_at: int | None = None
        self._script: list[int] = []
        self._first = 0

    def say(self, text: str, prompt_tokens: int) -> None:
        """Sets what is said behind a prompt of so many tokens."""
        self._script = [*byte_tokens(text), IM_END]
        self._first = prompt_tokens - 1

    def __call__(self, batch: Batch, logits: Float32) -> None:
        for index, row in enumerate(batch.logits_rows):
            place = int(batch.positions[row]) - self._first
            if place == self.breaks_at:
                raise RuntimeError("the toy is broken")
            if place == self.pauses_at:
                time.sleep(0.5)
            said = self._script[place] if 0 <= place < len(self._script) else IM_END
            logits[index] = -5.0
            logits[index, said] = 5.0


def byte_tokens(text: str) -> list[int]:
    """The toy vocabulary's tokens of a text, one for each byte."""
    return [_token_of(byte) for byte in text.encode()]


@cache
def _token_of(byte: int) -> int:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [each for each in range(256) if each not in shown]
    character = chr(byte) if byte in shown else chr(256 + hidden.index(byte))
    return sorted(pre_tokenizers.ByteLevel.alphabet()).index(character)


# A chat template that writes tools and their calls as Qwen and Hermes do.
HERMES = (
    "{% if tools %}<|im_start|>system\n# Tools\n<tools>\n{% for tool in tools %}{{ tool | tojson }}\n"
    '{% endfor %}</tools>\nCall them as\n<tool_call>\n{"name": name, "arguments": object}\n</tool_call>'
    "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>"
    "{{ 'user' if message.role == 'tool' else message.role }}\n"
    "{% if message.role == 'tool' %}<tool_response>\n{{ message.content }}\n</tool_response>"
    "{% else %}{{ message.content or '' }}{% endif %}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLING = (
    "I ask.\n"
    '<tool_call>\n{"name": "forecast", "arguments": {"city":"巴黎","days":2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
"""Words and two calls, in that form. No "th" is in them: the toy has a token for it, and grammars insist."""
CALLED = [("forecast", {"city": "巴黎", "days": 2}), ("time", {})]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
NOTHING: dict[str, object] = {"type": "object", "properties": {}}
