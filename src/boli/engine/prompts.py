"""What a user may give as a prompt, told apart and checked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TypeAlias

from boli.errors import PromptError

Prompt: TypeAlias = str | Sequence[int]
MAX_PROMPT_CHARACTERS = 64 * 1024 * 1024


def is_batch(prompts: object) -> bool:
    """Whether this is several prompts: a list or tuple whose first member is not a number.

    Raises:
        PromptError: It is neither a prompt nor several.
    """
    if isinstance(prompts, str):
        return False
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        if hasattr(prompts, "tolist"):  # an array of ids
            return False
        raise PromptError(
            f"a prompt must be text or token ids, not {type(prompts).__name__}",
            remedy="decode bytes first" if isinstance(prompts, (bytes, bytearray)) else "",
        )
    return bool(prompts) and not isinstance(prompts[0], Integral)


def check_text(text: str) -> None:
    """Raises PromptError for text that is empty, too long or not Unicode."""
    if not text:
        raise PromptError("the prompt is empty", remedy="write at least one character")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise PromptError(f"the prompt has {len(text):,} characters, more than {MAX_PROMPT_CHARACTERS:,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt is not valid Unicode at character {error.start}",
            cause="it holds half of a surrogate pair, as text from bytes that are not UTF-8 does",
            remedy="give the text as UTF-8",
        ) from error


def check_ids(ids: object) -> list[int]:
    """Token ids as a list of Python integers.

    Raises:
        PromptError: Something in it is not a whole number.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise PromptError(f"a prompt must be text or token ids, not {type(ids).__name__}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise PromptError(f"a token id must be a whole number, not {value!r}")
    return [int(value) for value in values]
