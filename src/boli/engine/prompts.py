"""What a user may give as a prompt, told apart and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TypeAlias

from boli.errors import PromptError

Prompt: TypeAlias = str | Sequence[int]


def is_batch(prompts: object) -> bool:
    """Whether this is several prompts: a sequence whose first member is text or a sequence."""
    if isinstance(prompts, (str, bytes, bytearray)) or not isinstance(prompts, Sequence):
        return False
    return bool(prompts) and hasattr(prompts[0], "__len__")


def is_conversation(prompt: object) -> bool:
    """Whether this is a list of messages."""
    return is_batch(prompt) and all(isinstance(each, Mapping) for each in prompt)  # type: ignore[attr-defined]


def check_not_empty(text: str) -> None:
    """Raises PromptError for the empty text; what else text must be, the tokenizer checks."""
    if not text:
        raise PromptError("the prompt is empty", remedy="write at least one character")


def check_ids(ids: object) -> list[int]:
    """Token ids as a list of Python integers.

    Raises:
        PromptError: Something in it is not a whole number.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Sequence):
        raise PromptError(f"a prompt must be text or token ids, not {type(ids).__name__}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise PromptError(f"a token id must be a whole number, not {value!r}")
    return [int(value) for value in values]
