"""`boli tokenize`: how a text, or a conversation, becomes tokens."""

from __future__ import annotations

import json as json_module
import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from boli.cli.arguments import Json, Model, read_text
from boli.cli.progress import TerminalProgress
from boli.cli.table import Column, print_table
from boli.cli.terminal import Style, note, print_json, quoted, visible
from boli.errors import PromptError

if TYPE_CHECKING:
    from boli.text import Piece, Rendered, Tokenizer

HELP = """Show how a text becomes tokens.

For each token its piece of the vocabulary, its id, and the span of the text it comes from, in
characters, the end not included. Only the tokenizer is loaded, not the weights. From stdin
everything is taken, a line feed at the end too.

With --chat TEXT is what a user says, or a JSON list of messages such as
[{"role": "user", "content": "Hi"}]. Then the text that the model's chat template makes of it is
shown, and which message each token comes from.

\b
Examples:
  boli tokenize "我爱北京天安门"
  boli tokenize --chat "Hi there"
  cat letter.txt | boli tokenize - --json
"""


application = typer.Typer(add_completion=False, rich_markup_mode=None)


@application.command(help=HELP)
def tokenize(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads stdin.", show_default=False)],
    *,
    model: Model = "smollm2",
    chat: Annotated[bool, typer.Option("--chat", help="Take TEXT as chat, and apply the template.")] = False,
    json: Json = False,
) -> None:
    """Prints the tokens of a text or of a rendered conversation."""
    source = read_text(text, keep_line_end=True)
    messages = parse_messages(source) if chat else None
    tokenizer = _load_tokenizer(model)
    tokens = _Tokens.of(tokenizer, source) if messages is None else _Tokens.of_chat(tokenizer, messages)
    if json:
        print_json({"model": model} | tokens.document())
    else:
        tokens.print()


def _load_tokenizer(model: str) -> Tokenizer:
    """A model's tokenizer alone; no tensor is looked at."""
    from boli.sources import resolve  # noqa: PLC0415
    from boli.text import load_tokenizer  # noqa: PLC0415

    with TerminalProgress() as progress:
        path = resolve(model, progress=progress).path
    if path.is_dir() and not (path / "tokenizer.json").exists():
        path = next(iter(sorted(path.glob("*.gguf"))), path)
    return load_tokenizer(path)


def parse_messages(text: str) -> list[dict[str, object]]:
    """The conversation that a text stands for: a JSON list of messages, or what one user says.

    Raises:
        PromptError: It begins as a list of objects, but is not JSON, or not one of messages.
    """
    if not re.match(r"\s*\[\s*\{", text):
        return [{"role": "user", "content": text}]
    try:
        messages = json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            "the list of messages is not JSON",
            cause=str(error),
            remedy='write it as [{"role": "user", "content": "Hi"}]',
        ) from error
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PromptError(
                f"message {index} is not an object with a role",
                remedy='write it as {"role": "user", "content": "Hi"}',
            )
    return list(messages)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What the tokenizer made of a text.

    Attributes:
        tokenizer: Of the model.
        pieces: The tokens.
        typed: Special tokens that somebody wrote out, and where.
        messages: The conversation, or None.
        rendered: What the chat template made of it, or None.
    """

    tokenizer: Tokenizer
    pieces: list[Piece]
    typed: list[tuple[str, str]]
    messages: list[dict[str, object]] | None = None
    rendered: Rendered | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: str) -> _Tokens:
        """The tokens of a plain text, as `boli generate` sees them."""
        typed = [("the text", name) for name in _names(tokenizer.typed_special_tokens(text))]
        return cls(tokenizer, tokenizer.pieces(text), typed)

    @classmethod
    def of_chat(cls, tokenizer: Tokenizer, messages: list[dict[str, object]]) -> _Tokens:
        """The tokens of a conversation, as `boli chat` sees them."""
        rendered = tokenizer.require_chat_template().render_with_spans(messages)
        # As `Tokenizer.encode_chat`: the template writes the special tokens.
        pieces = tokenizer.pieces(rendered.text, add_special_tokens=False)
        typed = []
        for index, message in enumerate(messages):
            content = message.get("content")
            if isinstance(content, str):
                found = _names(tokenizer.typed_special_tokens(content))
                typed += [(f"message {index}", name) for name in found]
        return cls(tokenizer, pieces, typed, messages, rendered)

    def warnings(self) -> Iterator[str]:
        """What a person should know before sending this to the model."""
        if self.tokenizer.doubled_bos([piece.id for piece in self.pieces]):
            yield (
                f"the text begins with two {self.pieces[0].piece}: one is written out in it, although "
                "the tokenizer or the template adds one; models were not trained on that"
            )
        for where, name in self.typed:
            yield f"{where} holds {name}, which the model takes for a control token, not for text"

    def owners(self) -> list[int | None]:
        """Which message each token comes from; None if from the template itself."""
        spans = self.rendered.spans if self.rendered else []
        starts = [span.start for span in spans]
        owners: list[int | None] = []
        for piece in self.pieces:
            index = bisect_right(starts, piece.start) - 1
            inside = index >= 0 and piece.start < spans[index].end
            owners.append(spans[index].message_index if inside else None)
        return owners

    def document(self) -> dict[str, object]:
        """The JSON document, without the model's name."""
        tokens: list[dict[str, object]] = [
            {
                "id": piece.id,
                "piece": piece.piece,
                "start": piece.start,
                "end": piece.end,
                "bytes": self.tokenizer.token_bytes(piece.id).hex(),
                "special": piece.special,
            }
            for piece in self.pieces
        ]
        document: dict[str, object] = {
            "count": len(tokens),
            "tokens": tokens,
            "warnings": list(self.warnings()),
        }
        if self.rendered:
            for token, owner in zip(tokens, self.owners(), strict=True):
                token["message"] = owner
            document |= {"messages": self.messages, "rendered": self.rendered.text}
        return document

    def print(self) -> None:
        """Writes the rendered text if there is one, the table of tokens, and the warnings."""
        if self.rendered:
            sys.stdout.write(visible(self.rendered.text, lines=True).rstrip("\n") + "\n\n")
        titles = ("#", "id", "piece", "span", "text")
        columns = [Column(title, numeric=title in {"#", "id", "span"}) for title in titles]
        rows = [
            [str(index), str(piece.id), piece.piece, f"{piece.start}:{piece.end}", self._text(piece)]
            for index, piece in enumerate(self.pieces)
        ]
        if self.messages is not None:
            columns.append(Column("from"))
            for row, owner in zip(rows, self.owners(), strict=True):
                row.append("template" if owner is None else f"{owner} {self.messages[owner]['role']}")
        styles: list[Style | None] = ["cyan" if piece.special else None for piece in self.pieces]
        print_table(columns, rows, styles=styles)
        for warning in self.warnings():
            note(f"warning: {warning}", "yellow")

    def _text(self, piece: Piece) -> str:
        """What a token stands for: text in quotes, or its bytes where they are part of a character."""
        data = self.tokenizer.token_bytes(piece.id)
        try:
            return quoted(data.decode("utf-8"))
        except UnicodeDecodeError:
            return data.hex(" ")


def _names(pieces: list[Piece]) -> list[str]:
    """The entries of tokens, each once."""
    return list(dict.fromkeys(piece.piece for piece in pieces))
