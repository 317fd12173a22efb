"""An answer of a model: written while it comes, as a JSON document, and summed up in a line."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from boli.cli.terminal import is_terminal, note, quoted, visible
from boli.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from boli.engine.llm import LLM
    from boli.engine.output import Chunk, Completion
    from boli.engine.sampling import Sampled
    from boli.engine.stream import Stream
    from boli.text import Tokenizer


def write_answer(stream: Stream, between: Callable[[Chunk], object] | None = None) -> None:
    """Writes a stream's text to stdout as it comes, and a line feed behind it however it ends.

    A terminal gets control characters as pictures; a file or pipe gets the text as it is.

    Args:
        stream: The answer.
        between: Called with each chunk when it is written.
    """
    terminal = sys.stdout.isatty()
    try:
        for chunk in stream:
            sys.stdout.write(visible(chunk.text, lines=True) if terminal else chunk.text)
            sys.stdout.flush()
            if between is not None:
                between(chunk)
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def keep(completion: Completion) -> None:
    """Keeps a run for `boli trace --last`; that it cannot be kept is said, and no reason to fail."""
    from boli.engine.record import keep_last  # noqa: PLC0415

    try:
        keep_last(completion.record)
    except StorageError as error:
        note(f"the run is not kept for boli trace --last: {error.message} ({error.cause})", "dim")


def document(llm: LLM, completion: Completion, *, sampled: bool) -> dict[str, object]:
    """The JSON document of an answer.

    Args:
        llm: What answered.
        completion: The answer.
        sampled: Whether tokens were drawn; then the seed, with which they can be drawn again, is in it.
    """
    answer: dict[str, object] = {
        "model": llm.name,
        "prompt_tokens": completion.prompt_token_ids,
        "tokens": completion.token_ids,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
    }
    if sampled:
        answer["seed"] = completion.seed
    if completion.logprobs is not None:
        answer["logprobs"] = [_logprob_entry(llm.tokenizer, token) for token in completion.logprobs]
    return answer | {
        "drafted_tokens": completion.drafted_tokens,
        "accepted_tokens": completion.accepted_tokens,
        "timings": asdict(completion.timings),
        "ledger": llm.ledger.totals(),
        "resident_bytes": llm.ledger.resident_bytes(),
    }


def _logprob_entry(tokenizer: Tokenizer, token: Sampled) -> dict[str, object]:
    top = [
        {"id": other, "text": _text(tokenizer, other), "logprob": _finite(value)}
        for other, value in token.top
    ]
    return {
        "id": token.id,
        "text": _text(tokenizer, token.id),
        "logprob": _finite(token.logprob),
        "top": top,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: the log-probability of what cannot come is null."""
    return value if value is not None and math.isfinite(value) else None


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")


def print_logprobs(tokenizer: Tokenizer, tokens: list[Sampled]) -> None:
    """Writes a table of the tokens, how likely each was, and what else was likely."""
    from boli.cli.table import Column, print_table  # noqa: PLC0415  # brings rich, for those who ask

    columns = [
        Column("#", numeric=True),
        Column("id", numeric=True),
        Column("token"),
        Column("logprob", numeric=True),
        Column("prob", numeric=True),
    ]
    rows = []
    for index, token in enumerate(tokens):
        logprob = -math.inf if token.logprob is None else token.logprob
        row = [
            str(index),
            str(token.id),
            quoted(_text(tokenizer, token.id)),
            f"{logprob:.4f}",
            _percent(logprob),
        ]
        rows.append([*row, "  ".join(f"{quoted(_text(tokenizer, i))} {_percent(v)}" for i, v in token.top)])
    if any(token.top for token in tokens):
        columns.append(Column("likeliest"))
    else:
        rows = [row[:-1] for row in rows]
    print_table(columns, rows)


def _percent(logprob: float) -> str:
    return f"{math.exp(logprob):.1%}"


def print_summary(completion: Completion, *, sampled: bool, loaded: bool) -> None:
    """Writes how long the answer took in a line to stderr, if that is a terminal.

    Args:
        completion: The answer.
        sampled: Whether to name the seed.
        loaded: Whether to say how long the model took to load.
    """
    if not is_terminal(sys.stderr):
        return
    timings = completion.timings
    count, prompt = len(completion.token_ids), len(completion.prompt_token_ids)
    parts = [f"{count} tokens" if count != 1 else "1 token"]
    if timings.decode_tokens_per_s:
        parts[0] += f", {timings.decode_tokens_per_s:.0f}/s"
    reused = f" ({completion.reused_tokens} known)" if completion.reused_tokens else ""
    parts.append(f"prompt of {prompt}{reused} in {timings.prefill_s:.2f} s")
    if completion.drafted_tokens:
        parts.append(f"{completion.accepted_tokens} of {completion.drafted_tokens} guesses right")
    if loaded:
        parts.append(f"loaded in {timings.load_s:.2f} s")
    if sampled:
        parts.append(f"seed {completion.seed}")
    parts.append(completion.finish_reason)
    note(" · ".join(parts), "dim")
