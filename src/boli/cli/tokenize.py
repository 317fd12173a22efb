"""`boli tokenize`: how a text, or a conversation, becomes tokens."""

from __future__ import annotations

import json as json_module
import re
import sys
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from boli.cli.arguments import Json, Model, read_text
from boli.cli.progress import TerminalProgress
from boli.cli.table import Column, print_table
from boli.cli.terminal import Style, note, print_json, quoted, visible
from boli.errors import PromptError, TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boli.text import Piece, Rendered, Tokenizer

HELP = """Show how a text becomes tokens: pieces, ids, and the source span of each.

Spans count characters, the end is not included. Only the tokenizer is loaded, not the weights.
From stdin everything is taken, a line feed at the end too.

With --chat TEXT is what a user says, or a JSON list of messages such as
[{"role": "user", "content": "Hi"}]; shown are the text that the model's chat template makes of it
and which message each token comes from.

\b
Examples:
  boli tokenize "我爱北京天安门"
  boli tokenize --chat "Hi there"
  cat letter.txt | boli tokenize - --json
"""

_WARNING_DOUBLED = "the text begins with {token} and the tokenizer adds another: the model sees it twice"
_WARNING_TYPED = "{where} holds {token}, which the model takes for a control token, not for text"


def tokenize(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The text; - reads stdin.", show_default=False)
    ],
    model: Model = "smollm2",
    chat: Annotated[bool, typer.Option("--chat", help="Take TEXT as chat, and apply the template.")] = False,
    json: Json = False,
) -> None:
    """Prints the tokens of a text or of a rendered conversation."""
    source = read_text(text, keep_line_end=True)
    messages = _messages(source) if chat else None
    with _tokenizer(model) as tokenizer:
        rendered = _render(tokenizer, messages) if messages is not None else None
        pieces = tokenizer.pieces(
            rendered.text if rendered else source,
            # A template writes the BOS itself; the engine adds none to what it rendered.
            add_special_tokens=rendered is None,
        )
        owners = _owners(pieces, rendered)
        warnings = list(_warnings(tokenizer, pieces, messages))
        if json:
            print_json(_document(model, tokenizer, pieces, owners, messages, rendered, warnings))
        else:
            _print(tokenizer, pieces, owners, messages, rendered)
            for warning in warnings:
                note(f"warning: {warning}", "yellow")


@contextmanager
def _tokenizer(model: str) -> Iterator[Tokenizer]:
    """A model's tokenizer alone; no tensor is looked at."""
    from boli.sources import resolve  # noqa: PLC0415
    from boli.text import load_tokenizer  # noqa: PLC0415

    with TerminalProgress() as progress:
        path = resolve(model, progress=progress).path
    ggufs = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "tokenizer.json").exists() else []
    if ggufs:
        path = ggufs[0]
    if path.suffix == ".gguf":
        from boli.formats.gguf import GGUFFile  # noqa: PLC0415

        with GGUFFile(path) as file:
            yield load_tokenizer(file)
    else:
        yield load_tokenizer(path)


def _messages(text: str) -> list[dict[str, object]]:
    """The conversation that TEXT stands for.

    Raises:
        PromptError: It is a JSON list, but not one of messages.
    """
    if not re.match(r"\s*\[\s*\{", text):
        return [{"role": "user", "content": text}]
    try:
        messages = json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            "the list of messages is not JSON",
            cause=str(error),
            remedy="write it as [{\"role\": \"user\", \"content\": \"Hi\"}]",
        ) from error
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PromptError(
                f"message {index} is not an object with a role",
                remedy="write it as {\"role\": \"user\", \"content\": \"Hi\"}",
            )
    return list(messages)


def _render(tokenizer: Tokenizer, messages: Sequence[dict[str, object]]) -> Rendered:
    if tokenizer.chat_template is None:
        raise TemplateError(
            "this model has no chat template",
            cause="it is a base model, which continues texts and was not taught to chat",
            remedy="leave out --chat, or choose a model that chats",
        )
    return tokenizer.chat_template.render_with_spans(messages)


def _owners(pieces: Sequence[Piece], rendered: Rendered | None) -> list[int | None]:
    """Which message each token comes from; None if from the template itself."""
    spans = rendered.spans if rendered else []
    starts = [span.start for span in spans]
    owners: list[int | None] = []
    for piece in pieces:
        index = bisect_right(starts, piece.start) - 1
        inside = index >= 0 and piece.start < spans[index].end
        owners.append(spans[index].message_index if inside else None)
    return owners


def _warnings(
    tokenizer: Tokenizer, pieces: Sequence[Piece], messages: Sequence[dict[str, object]] | None
) -> Iterator[str]:
    """What a person should know before sending this to the model."""
    bos = tokenizer.bos_token_id
    if bos is not None and [piece.id for piece in pieces[:2]] == [bos, bos]:
        yield _WARNING_DOUBLED.format(token=tokenizer.piece(bos))
    if messages is None:
        typed = {piece.piece: None for piece in pieces if piece.special and piece.end > piece.start}
        for token in typed:
            yield _WARNING_TYPED.format(where="the text", token=token)
        return
    for index, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str):
            continue
        own = tokenizer.pieces(content, add_special_tokens=False)
        for token in {piece.piece: None for piece in own if piece.special}:
            yield _WARNING_TYPED.format(where=f"message {index}", token=token)


def _document(
    model: str,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    owners: Sequence[int | None],
    messages: Sequence[dict[str, object]] | None,
    rendered: Rendered | None,
    warnings: Sequence[str],
) -> dict[str, object]:
    tokens: list[dict[str, object]] = []
    for piece, owner in zip(pieces, owners, strict=True):
        token: dict[str, object] = {
            "id": piece.id,
            "piece": piece.piece,
            "start": piece.start,
            "end": piece.end,
            "bytes": tokenizer.token_bytes(piece.id).hex(),
            "special": piece.special,
        }
        tokens.append(token | {"message": owner} if rendered else token)
    document: dict[str, object] = {"model": model, "count": len(pieces), "tokens": tokens, "warnings": warnings}
    if rendered:
        document |= {"messages": messages, "rendered": rendered.text}
    return document


def _print(
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    owners: Sequence[int | None],
    messages: Sequence[dict[str, object]] | None,
    rendered: Rendered | None,
) -> None:
    if rendered:
        sys.stdout.write(visible(rendered.text, lines=True).rstrip("\n") + "\n\n")
    columns = [
        Column("#", numeric=True),
        Column("id", numeric=True),
        Column("piece"),
        Column("span", numeric=True),
        Column("text"),
    ]
    rows = [
        [str(index), str(piece.id), piece.piece, f"{piece.start}:{piece.end}", _shown(tokenizer, piece)]
        for index, piece in enumerate(pieces)
    ]
    if messages is not None:
        columns.append(Column("from"))
        for row, owner in zip(rows, owners, strict=True):
            row.append("template" if owner is None else f"{owner} {messages[owner].get('role')}")
    styles: list[Style | None] = ["cyan" if piece.special else None for piece in pieces]
    print_table(columns, rows, styles=styles)


def _shown(tokenizer: Tokenizer, piece: Piece) -> str:
    """What a token stands for: text in quotes, or its bytes where they are part of a character."""
    data = tokenizer.token_bytes(piece.id)
    try:
        return quoted(data.decode("utf-8"))
    except UnicodeDecodeError:
        return " ".join(f"{byte:02x}" for byte in data)
