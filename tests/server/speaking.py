"""A toy model that says what a test tells it to, as far as it is allowed to."""

from __future__ import annotations

from boli.engine.batch import Batch, Float32
from boli.text import Tokenizer
from engine.toy_llm import IM_END, IM_START

_HEADER = len("<|im_start|>assistant\n") - len("<|im_start|>")


class Speaker:
    """A hook for the toy runner. One conversation at a time; the prompt ends with an assistant's header.

    Attributes:
        script: The tokens that it says; then it ends.
    """

    def __init__(self) -> None:
        self.script: list[int] = []
        self._header = 0  # where the last turn begins

    def say(self, text: str, tokenizer: Tokenizer) -> None:
        """Sets what the next answers are."""
        self.script = [*tokenizer.encode(text, add_special_tokens=False, parse_special=False), IM_END]

    def __call__(self, batch: Batch, logits: Float32) -> None:
        for token, position in zip(batch.token_ids.tolist(), batch.positions.tolist(), strict=True):
            if token == IM_START:
                self._header = position
        for index, row in enumerate(batch.logits_rows):
            said = int(batch.positions[row]) - self._header - _HEADER
            wanted = self.script[said] if 0 <= said < len(self.script) else IM_END
            logits[index, wanted] = 100.0  # what is forbidden leaves the choice to chance
