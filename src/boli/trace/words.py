"""The texts of a trace: where each token comes from, and how each token of the vocabulary is shown."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from boli.errors import BoliError, PromptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from boli.engine.record import RunRecord
    from boli.text import Piece, Rendered, Tokenizer

Entry = dict[str, object]


def teller(tokenizer: Tokenizer) -> Callable[[int], str]:
    """A function that tells what a token of the vocabulary says.

    Its text; the vocabulary's own spelling, such as `<0xE4>`, where it is a part of a character; and nothing
    for ids beyond the vocabulary, which padded heads can give.
    """

    @cache
    def text(token: int) -> str:
        try:
            return tokenizer.token_bytes(token).decode("utf-8")
        except UnicodeDecodeError:
            return piece_of(tokenizer, token)

    return text


def piece_of(tokenizer: Tokenizer, token: int) -> str:
    """The vocabulary's entry; nothing beyond it."""
    try:
        return tokenizer.piece(token)
    except PromptError:
        return ""


def describe_text(tokenizer: Tokenizer, run: RunRecord) -> tuple[Entry, list[Entry]]:
    """The texts of a run, and its tokens with their sources.

    A prompt that was given as a text is cut again, so that each token knows its characters. If that does not
    give the run's ids, as when they were given themselves, the prompt's text is what its tokens say, and they
    have no source.

    Returns:
        `text` and `tokens` of the document.
    """
    prompt = list(run.token_ids[: run.prompt_length])
    rendered = _render(tokenizer, run)
    source = run.text if rendered is None else rendered.text
    pieces = None if source is None else _cut(tokenizer, source, chat=rendered is not None)
    if pieces is None or [piece.id for piece in pieces] != prompt:
        source, tokens = _told(tokenizer, prompt)
    else:
        assert source is not None
        tokens = _sourced(pieces, source, rendered)
    answer, generated = _answered(tokenizer, run, len(source))
    template = tokenizer.chat_template
    text: Entry = {
        "kind": "completion" if run.messages is None else "chat",
        "messages": None if run.messages is None else [dict(each) for each in run.messages],
        "template": None if run.messages is None or template is None else template.source,
        "prompt": source,
        "answer": answer,
    }
    return text, [token | {"position": position} for position, token in enumerate([*tokens, *generated])]


def _render(tokenizer: Tokenizer, run: RunRecord) -> Rendered | None:
    if run.messages is None or tokenizer.chat_template is None:
        return None
    try:
        return tokenizer.chat_template.render_with_spans(run.messages)
    except BoliError:  # a record of other messages than this template takes; its ids are what counts
        return None


def _cut(tokenizer: Tokenizer, source: str, *, chat: bool) -> list[Piece] | None:
    try:
        return tokenizer.pieces(source, add_special_tokens=not chat)
    except PromptError:
        return None


def _sourced(pieces: list[Piece], source: str, rendered: Rendered | None) -> list[Entry]:
    tokens: list[Entry] = []
    before: tuple[int, int] | None = None
    for piece in pieces:
        span = (piece.start, piece.end)
        tokens.append(
            {
                "id": piece.id,
                # Tokens that hold bytes of one character share its span: the first of them shows it.
                "text": "" if span == before else source[piece.start : piece.end],
                "piece": piece.piece,
                "span": list(span),
                "message": None if rendered is None else rendered.message_of(*span),
                "special": piece.special,
                "generated": False,
            }
        )
        before = span
    return tokens


def _told(tokenizer: Tokenizer, prompt: list[int]) -> tuple[str, list[Entry]]:
    """A prompt of which only the ids are known."""
    detokenizer = tokenizer.detokenizer(skip_special_tokens=False)
    texts = [detokenizer.push(token) for token in prompt]
    texts[-1] += detokenizer.finish()
    tokens: list[Entry] = [
        {
            "id": token, "text": text, "piece": piece_of(tokenizer, token), "span": None, "message": None,
            "special": tokenizer.is_special(token), "generated": False,
        }
        for token, text in zip(prompt, texts, strict=True)
    ]  # fmt: skip
    return "".join(texts), tokens


def _answered(tokenizer: Tokenizer, run: RunRecord, start: int) -> tuple[str, list[Entry]]:
    """What the generated tokens say; those of one character share its span, the last of them shows it."""
    prompt, ids = run.token_ids[: run.prompt_length], run.generated
    detokenizer = tokenizer.detokenizer(prompt_ids=prompt)
    texts = [detokenizer.push(token) for token in ids]
    if ids:
        texts[-1] += detokenizer.finish()
    tokens: list[Entry] = []
    place, waiting = start, 0
    for token, text in zip(ids, texts, strict=True):
        special = tokenizer.is_special(token)
        waiting += 1
        tokens.append(
            {
                "id": token, "text": text, "piece": piece_of(tokenizer, token),
                "span": [place, place] if special else None, "message": None, "special": special,
                "generated": True,
            }
        )  # fmt: skip
        if text:
            for entry in tokens[-waiting:]:
                entry["span"] = [place, place + len(text)]
            place += len(text)
        if text or special:
            waiting = 0
    return "".join(texts), tokens
