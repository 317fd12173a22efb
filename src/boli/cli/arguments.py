"""Arguments and options that several commands share, and how a text is read from them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from boli.cli.terminal import note
from boli.errors import PromptError

#: Bytes of text that are read from stdin at most; the longest context of any model is below it.
STDIN_LIMIT = 16 * 1024 * 1024

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL",
        help="An alias, a folder, a .gguf file, hf:org/name, org/name, ms:org/name or pypi:…",
    ),
]  # fmt: skip
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model, as --model takes it.", show_default=False)
]
MaxTokens = Annotated[int, typer.Option(metavar="N", help="Stop after so many tokens.")]
Temperature = Annotated[float, typer.Option(metavar="T", help="Divides the logits; 0 is greedy.")]
TopK = Annotated[int, typer.Option(metavar="N", help="Draw from the N likeliest tokens; 0 is off.")]
TopP = Annotated[
    float | None,
    typer.Option(metavar="P", help="Draw from the likeliest tokens that have P together; 1 is off."),
]
MinP = Annotated[
    float, typer.Option(metavar="P", help="Leave out tokens below P times the likeliest; 0 is off.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(metavar="X", help="Divides the logits of tokens seen before; 1 is off.")
]
PresencePenalty = Annotated[
    float, typer.Option(metavar="X", help="Taken off the logits of tokens generated before.")
]
FrequencyPenalty = Annotated[
    float, typer.Option(metavar="X", help="Taken off the logits, for each time generated before.")
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Same seed, same draws.", show_default="a new one")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="Stop before this text; may be given several times.", show_default=False
    ),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Threads to compute with.", show_default="all cores")
]
Context = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Tokens of context, prompt included.", show_default="the model's"),
]
Weights = Annotated[
    Literal["auto", "bf16", "int8", "int4"],
    typer.Option(metavar="FORM", help="Round a model in floating point: auto, bf16, int8, int4."),
]
KvCacheType = Annotated[
    Literal["bf16", "int8", "f32"],
    typer.Option(metavar="TYPE", help="What keys and values are kept as: bf16, int8, f32."),
]
Speculation = Annotated[
    Literal["auto", "off"],
    typer.Option(
        metavar="WHEN",
        help="Guess tokens from what was said: auto (where it pays) or off; the text is the same.",
    ),
]
Logprobs = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Show each token's log-probability and the N likeliest.", show_default="off"
    ),
]
Receipt = Annotated[
    bool, typer.Option("--receipt", help="Show bytes and speed: predicted, and as they were.")
]
ReceiptSvg = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the receipt as a picture.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def read_text(argument: str, *, keep_line_end: bool = False) -> str:
    """The text that an argument gives: itself, or all of stdin if it is `-`.

    Args:
        argument: What stands on the command line.
        keep_line_end: Whether a line feed at the end of stdin is text. If not, one is left out, so
            that `echo TEXT | boli … -` is the same as `boli … TEXT`.

    Raises:
        PromptError: It is empty, not UTF-8 (says at which byte), or larger than `STDIN_LIMIT`.
    """
    if argument == "-":
        source = "stdin"
        text = decode(_read_stdin(), source)
        if not keep_line_end:
            text = text.removesuffix("\n").removesuffix("\r")
    else:
        source = "the text"
        text = _from_command_line(argument)
    if not text:
        raise PromptError(f"{source} is empty", remedy="give at least one character, or - to read stdin")
    return text


def _read_stdin() -> bytes:
    if sys.stdin is None:
        return b""
    if sys.stdin.isatty():
        note("Type the text; Ctrl-D ends it.", "dim")
    data = sys.stdin.buffer.read(STDIN_LIMIT + 1)
    if len(data) > STDIN_LIMIT:
        raise PromptError(
            "stdin is too long", cause=f"it has more than {STDIN_LIMIT:,} bytes", remedy="give a shorter text"
        )
    return data


def _from_command_line(argument: str) -> str:
    """The argument, if it is text; Python hides bytes that are none in lone surrogates."""
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError:
        return decode(os.fsencode(argument), "the text")
    return argument


def decode(data: bytes, source: str) -> str:
    """Bytes from outside as text.

    Raises:
        PromptError: They are not UTF-8; says which byte it is that cannot be.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{source} is not UTF-8",
            cause=f"byte 0x{data[error.start]:02x} at position {error.start} ({error.reason})",
            remedy="convert it, for example with: iconv -f GB18030 -t UTF-8",
        ) from error
