"""`boli trace`: what happened in a run, step by step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from boli.cli import arguments
from boli.cli.options import Loading, Sampling, with_groups
from boli.cli.progress import TerminalProgress
from boli.cli.terminal import note, print_json
from boli.cli.tokenize import parse_messages
from boli.cli.trace_print import Shown, print_trace
from boli.cli.trace_sources import found_run, found_trace, load_first, load_other, replayed
from boli.errors import UsageError

HELP = """Show what happened in a run: every step, every layer, every choice.

PROMPT is run and traced. --last traces what 'boli generate' or 'boli chat' ran last; so does a file
that holds a run, or a trace that was saved (a name that ends in .json). The tokens go through the
model once more, with probes; the numbers are those of the run to the last bit, and it is said if not.

--detail says how much is kept: summary (norms, what each layer would say, the sampler, times), rows
(also who looked where, for each generated token), full (every intermediate of every token). What that
costs is said first.

\b
Examples:
  boli trace "The capital of France is"
  boli trace "我爱中华人民共和" --model gemma3-270m --max-tokens 4 --language zh
  boli trace --chat "Name three primes." --step 2 --layer 7 --head 3
  boli generate "Once upon a time" --temperature 0.8 && boli trace --last --html trace.html
  boli trace "1, 2, 3," --json > trace.json && boli trace trace.json --step 0
  boli trace "1, 2, 3," --model org/name --compare int8
"""

application = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, kw_only=True)
class TraceSampling(Sampling):
    """Shorter than `Sampling`, as each token is looked at."""

    max_tokens: arguments.MaxTokens = 32


def _names(group: type[Any]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(group))


# What only a run, and what only a replay can be told.
_OF_A_RUN = ("chat", *_names(Sampling), "weights", "kv_cache_type", "speculation")
_OF_A_REPLAY = ("detail", "compare", "model", "context", "threads")


@application.command(help=HELP)
@with_groups
def trace(
    ctx: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="A text, - for stdin, or a run or trace in FILE.json.", show_default=False
        ),
    ] = None,
    *,
    last: Annotated[bool, typer.Option("--last", help="Trace the last run.")] = False,
    chat: Annotated[
        bool,
        typer.Option("--chat", "--messages", help="Take PROMPT as chat: a question, or JSON messages."),
    ] = False,
    detail: Annotated[
        Literal["summary", "rows", "full"],
        typer.Option(metavar="DETAIL", help="How much to keep: summary, rows, full."),
    ] = "rows",
    shown: Shown,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to look into.", show_default=False)
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the trace as JSON.", show_default=False)
    ] = None,
    json: arguments.Json = False,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Hold the same tokens in another model, or form of weights, against this.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="As for generate; that of the run with --last.",
            show_default="smollm2",
        ),
    ] = None,
    sampling: TraceSampling,
    loading: Loading,
) -> None:
    """Traces a run and shows it."""
    if (prompt is None) is not last:
        raise UsageError(
            "say what to trace: a prompt, a file, or --last"
            if prompt is None
            else "a prompt, or --last: not both"
        )
    options = sampling.options(logprobs=0)
    shown.check()
    if json:
        _refuse(ctx, _names(Shown), "--json prints the whole trace")
    made = found_trace(prompt)
    if made is not None:
        _refuse(ctx, (*_OF_A_RUN, *_OF_A_REPLAY), "the trace is made already")
    else:
        run = found_run(prompt)
        if run is not None:
            _refuse(ctx, _OF_A_RUN, "the run was made already, with settings of its own")
        text = arguments.read_text(prompt) if run is None and prompt is not None else ""
        messages = parse_messages(text) if chat else None
        with TerminalProgress() as progress, load_first(loading, model, run, progress) as llm:
            if run is None:
                completion = (
                    llm.generate(text, **options) if messages is None else llm.chat(messages, **options)
                )
                run = completion.record
            made = replayed(llm, run, detail)
        if compare is not None:
            with TerminalProgress() as progress, load_other(loading, compare, model, run, progress) as llm:
                made = made.compare(replayed(llm, run, detail, other_model=True))
    if save is not None:
        made.save(save)
        note(f"written: {save}", "dim")
    if html is not None:
        made.html(html)
        note(f"written: {html}", "dim")
    if json:
        print_json(made.document())
    elif html is None or shown.is_part:
        print_trace(made, shown, compared=compare is not None)


def _refuse(ctx: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuses options that would do nothing, rather than ignore them."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} has no meaning here: {why}")
