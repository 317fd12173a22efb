"""`boli generate`: continue a text."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from boli.cli import arguments
from boli.cli.answer import document, keep, print_logprobs, print_summary, write_answer
from boli.cli.options import Loading, Sampling, with_groups
from boli.cli.progress import TerminalProgress
from boli.cli.receipt import Watch, print_receipt, save_receipt
from boli.cli.terminal import is_terminal, print_json, styled, visible

HELP = """Continue a text.

What comes goes to stdout at once, all else to stderr. Without sampling options the likeliest token
is always taken (greedy). One line feed at the end of stdin is left out, so that
'echo TEXT | boli generate -' is the same as 'boli generate TEXT'.

\b
Examples:
  boli generate "The capital of France is"
  boli generate "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 7
  boli generate "1, 2, 3," --max-tokens 20 --stop "10" --json
  cat story.txt | boli generate - --model gemma3-270m
  boli generate "Once upon a time" --receipt --receipt-svg receipt.svg
"""

_LONGEST_ECHO = 1000


application = typer.Typer(add_completion=False, rich_markup_mode=None)


@application.command(help=HELP)
@with_groups
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The text to continue; - reads stdin.", show_default=False)
    ],
    *,
    model: arguments.Model = "smollm2",
    sampling: Sampling,
    logprobs: arguments.Logprobs = None,
    loading: Loading,
    receipt: arguments.Receipt = False,
    receipt_svg: arguments.ReceiptSvg = None,
    json: arguments.Json = False,
) -> None:
    """Continues a text with a model."""
    text = arguments.read_text(prompt)
    options = sampling.options(logprobs)
    with TerminalProgress() as progress, loading.load(model, progress) as llm:
        watch = Watch(llm, wanted=receipt or receipt_svg is not None)
        if json:
            with llm.stream(text, **options) as stream:
                for chunk in stream:
                    watch.look(chunk)
            completion = stream.completion
            keep(completion)
            answer = document(llm, completion, sampled=sampling.temperature > 0)
            if receipt or receipt_svg is not None:
                account = watch.receipt(llm, completion)
                answer["receipt"] = account.to_json()
                if receipt_svg is not None:
                    save_receipt(account, receipt_svg)
            print_json(answer)
            return
        with llm.stream(text, **options) as stream:
            if prompt != "-":
                _echo(text)
            write_answer(stream, watch.look)
        keep(stream.completion)
        if stream.completion.logprobs is not None:
            print_logprobs(llm.tokenizer, stream.completion.logprobs)
        print_summary(stream.completion, sampled=sampling.temperature > 0, loaded=True)
        if receipt or receipt_svg is not None:
            account = watch.receipt(llm, stream.completion)
            if receipt:
                print_receipt(account)
            if receipt_svg is not None:
                save_receipt(account, receipt_svg)


def _echo(prompt: str) -> None:
    """Shows the prompt before its continuation where a person looks at both; it is no result."""
    if is_terminal(sys.stderr) and is_terminal(sys.stdout) and len(prompt) <= _LONGEST_ECHO:
        sys.stderr.write(styled(visible(prompt, lines=True), "dim", sys.stderr))
        sys.stderr.flush()
