"""The tokenizer: text to ids and back, with the source of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from boli.errors import PromptError, TemplateError
from boli.text.detokenizer import Detokenizer
from boli.text.template import ChatTemplate

MAX_TEXT_CHARACTERS = 1 << 22
"""Longest text that is encoded at once: far beyond any context, and a bound on time and memory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an encoded text.

    Attributes:
        id: The token id.
        piece: The vocabulary's entry, in its own spelling ("Ġthe", "▁the", "<0xE4>").
        start: First character of the text that it came from.
        end: The character after the last. Tokens that hold bytes of one character share its span. A token
            that was added and stands for no text has `start == end`.
        special: It is a control token, whether added or written out in the text.
    """

    id: int
    piece: str
    start: int
    end: int
    special: bool


class Codec(Protocol):
    """What a vocabulary can do, whatever file it came from. Nothing here adds tokens of its own."""

    vocab_size: int
    strips_leading_space: bool

    def ids(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of a text."""

    def spans(self, text: str, *, parse_special: bool) -> list[tuple[int, int, int]]:
        """`(id, start, end)` of each token, in characters."""

    def piece(self, token: int, /) -> str | None:
        """The entry of an id, or None where the vocabulary has none."""

    def token_bytes(self, token: int, /) -> bytes:
        """The bytes that an id stands for; none where the vocabulary has no such entry."""

    def is_special(self, token: int, /) -> bool:
        """Whether an id is a control token."""


class Tokenizer:
    """Encodes and decodes text with the vocabulary of a model. Made by `load_tokenizer`.

    Args:
        codec: The vocabulary.
        kind: "bpe" (byte-level), "spm" (SentencePiece) or "unigram".
        bos_token_id: The token that begins a sequence.
        eos_token_ids: All tokens that end a generation.
        prefix_ids: What encoding puts first, usually the beginning-of-sequence token or nothing.
        suffix_ids: What encoding puts last, usually nothing.
        chat_template: The model's chat template.

    Attributes:
        vocab_size: Ids run from 0 to `vocab_size - 1`.
        add_bos: Encoding begins with `bos_token_id` unless told otherwise.
        strips_leading_space: Decoding drops one space where a sequence starts.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        kind: str,
        bos_token_id: int | None,
        eos_token_ids: frozenset[int],
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self._codec = codec
        self._prefix_ids = tuple(prefix_ids)
        self._suffix_ids = tuple(suffix_ids)
        self.kind = kind
        self.vocab_size = codec.vocab_size
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.add_bos = bos_token_id is not None and bos_token_id in self._prefix_ids
        self.chat_template = chat_template
        self.strips_leading_space = codec.strips_leading_space

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: Any text; an empty one gives no more than the added tokens.
            add_special_tokens: Add what the model expects around a text, as its files say.
            parse_special: Read control tokens that are written out in the text ("<|im_end|>") as tokens.
                False is for text that must not be able to act as one: it is then ordinary text. User-defined
                tokens (runs of newlines, markup) are ordinary text and are found either way.

        Raises:
            PromptError: Half of a surrogate pair, which no UTF-8 text holds, or far too long a text.
        """
        _check(text)
        ids = self._codec.ids(text, parse_special=parse_special)
        return [*self._prefix_ids, *ids, *self._suffix_ids] if add_special_tokens else ids

    def encode_chat(self, rendered: str) -> list[int]:
        """Token ids of what a chat template rendered.

        Templates write the control tokens themselves, the beginning of the sequence included, so none is
        added: adding them is how prompts get two. Models without it in the template were trained without it.
        """
        return self.encode(rendered, add_special_tokens=False)

    def pieces(
        self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[Piece]:
        """The tokens of `encode`, each with its entry and the span of the text that it came from.

        Spans never go back and leave no character out: what a normalizer drops goes with the token after it.

        Raises:
            PromptError: As `encode`.
        """
        _check(text)
        covered = 0
        spans = [(token, 0, 0) for token in self._prefix_ids] if add_special_tokens else []
        tokens = self._codec.spans(text, parse_special=parse_special)
        for index, (token, start, end) in enumerate(tokens):
            last = index == len(tokens) - 1
            end = len(text) if last else max(end, covered)  # noqa: PLW2901
            spans.append((token, min(start, covered), end))
            covered = end
        if add_special_tokens:
            spans += [(token, len(text), len(text)) for token in self._suffix_ids]
        return [
            Piece(token, self.piece(token), start, end, self.is_special(token)) for token, start, end in spans
        ]

    def typed_special_tokens(self, text: str) -> list[Piece]:
        """The control tokens that are written out in a text, where a person may not have meant them."""
        return [piece for piece in self.pieces(text, add_special_tokens=False) if piece.special]

    def doubled_bos(self, ids: Sequence[int]) -> bool:
        """Whether a sequence begins with two beginning-of-sequence tokens."""
        return len(ids) > 1 and self.bos_token_id is not None and ids[0] == ids[1] == self.bos_token_id

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of a sequence; bytes that are no characters become U+FFFD.

        Raises:
            PromptError: A negative id.
        """
        detokenizer = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])

    def detokenizer(self, *, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> Detokenizer:
        """A decoder for tokens that come one by one after a prompt."""
        return Detokenizer(self, prompt_ids=prompt_ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; a special token stands for its name.

        Ids past the vocabulary stand for nothing: output layers are often padded, so that a model can produce
        them.

        Raises:
            PromptError: A negative id.
        """
        return self._codec.token_bytes(_natural(token))

    def piece(self, token: int) -> str:
        """The vocabulary's entry of an id, in its own spelling.

        Raises:
            PromptError: The vocabulary has no such id.
        """
        entry = self._codec.piece(_natural(token))
        if entry is None:
            raise PromptError(
                f"the vocabulary has no token {token}",
                cause=f"its ids run from 0 to {self.vocab_size - 1}",
                remedy="check that the ids were made with this model's tokenizer",
            )
        return entry

    def is_special(self, token: int) -> bool:
        """Whether an id is a control token, which plain text leaves out.

        Raises:
            PromptError: A negative id.
        """
        return self._codec.is_special(_natural(token))

    def require_chat_template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            TemplateError: The model has none.
        """
        if self.chat_template is None:
            raise TemplateError(
                "the model has no chat template",
                cause="it was trained to continue text, not for conversations, or its files are incomplete",
                remedy="use `boli generate`, or a model tuned for chat (often named -Instruct)",
            )
        return self.chat_template


def _check(text: str) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise PromptError(
            f"the text has {len(text):,} characters",
            cause=f"at most {MAX_TEXT_CHARACTERS:,} are encoded at once",
            remedy="shorten it",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            "the text is not valid Unicode",
            cause=f"character {error.start} is half of a surrogate pair (U+{ord(text[error.start]):04X})",
            remedy="read the text as UTF-8, and repair or drop what is not",
        ) from None


def _natural(token: int) -> int:
    if token < 0:
        raise PromptError(f"{token} is not a token id", cause="ids are not negative")
    return token
