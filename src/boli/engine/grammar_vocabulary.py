"""A model's vocabulary as llguidance wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boli.errors import BoliError, MissingExtra, install

if TYPE_CHECKING:
    from boli.text import Tokenizer

_SPECIAL = b"\xff"  # never in UTF-8: what begins with it is no text to llguidance


def bridge(tokenizer: Tokenizer, vocab_size: int) -> Any:
    """The `llguidance.LLTokenizer` of a vocabulary. Takes 0.1 s for 50,000 tokens, 1.5 s for 260,000.

    Special tokens are never text: a grammar cannot be followed by writing out a control token, and none comes
    inside of what it describes. End-of-generation tokens come where the output may end.

    Args:
        tokenizer: Of the model.
        vocab_size: How many logits there are; it may differ from the vocabulary's own size, in both
            directions.

    Raises:
        MissingExtra: llguidance is not installed.
    """
    try:
        from llguidance import LLTokenizer  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise MissingExtra("JSON schemas and grammars need llguidance", remedy=install("serve")) from error
    known = min(vocab_size, tokenizer.vocab_size)
    special = {token for token in range(known) if tokenizer.is_special(token)}
    ends = {token for token in tokenizer.eos_token_ids if token < known}
    tokens = [tokenizer.token_bytes(token) for token in range(known)] + [b""] * (vocab_size - known)
    if not ends:  # llguidance wants one: a token behind the last, which no logit is for
        ends = {vocab_size}
        tokens.append(b"")
    for token in special | ends:
        tokens[token] = _SPECIAL + tokens[token]
    wrapper = _Wrapper(tokenizer, tokens, special=sorted(special | ends), end=min(ends))
    wrapper.made = LLTokenizer(wrapper, n_vocab=len(tokens), eos_token=sorted(ends))  # type: ignore[arg-type]
    return wrapper.made


class _Wrapper:
    """What llguidance asks of a tokenizer; the names are its own.

    It encodes texts that a grammar forces, so that they come in the tokens in which the model knows them.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, tokenizer: Tokenizer, tokens: Sequence[bytes], *, special: Sequence[int], end: int
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        self.made: Any = None
        self._tokenizer = tokenizer

    def __call__(self, given: str | bytes) -> list[int]:
        text = given if isinstance(given, str) else given.decode()
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=False, parse_special=False)
            # Normalizers and added spaces change a text; what comes out must be what is forced.
            if b"".join(self.tokens[token] for token in ids) == text.encode():
                return ids
        except BoliError:  # an exception would be a panic over there
            pass
        longest: list[int] = self.made.greedy_tokenize(text)
        return longest
