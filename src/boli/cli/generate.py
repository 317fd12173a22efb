"""`boli generate`: continue a text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from boli.cli import arguments
from boli.cli.answer import document, keep, print_logprobs, print_summary, write_answer
from boli.cli.progress import TerminalProgress
from boli.cli.receipt import print_receipt, receipt_of, save_receipt
from boli.cli.terminal import is_terminal, print_json, styled, visible

if TYPE_CHECKING:
    from boli.engine.params import SamplingOptions

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
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The text to continue; - reads stdin.", show_default=False)
    ],
    *,
    model: arguments.Model = "smollm2",
    max_tokens: arguments.MaxTokens = 128,
    temperature: arguments.Temperature = 0.0,
    top_k: arguments.TopK = 0,
    top_p: arguments.TopP = 1.0,
    min_p: arguments.MinP = 0.0,
    repetition_penalty: arguments.RepetitionPenalty = 1.0,
    presence_penalty: arguments.PresencePenalty = 0.0,
    frequency_penalty: arguments.FrequencyPenalty = 0.0,
    seed: arguments.Seed = None,
    stop: arguments.Stop = None,
    logprobs: arguments.Logprobs = None,
    context: arguments.Context = None,
    threads: arguments.Threads = None,
    weights: arguments.Weights = "auto",
    kv_cache_type: arguments.KvCacheType = "bf16",
    speculation: arguments.Speculation = "auto",
    receipt: arguments.Receipt = False,
    receipt_svg: arguments.ReceiptSvg = None,
    json: arguments.Json = False,
) -> None:
    """Continues a text with a model."""
    text = arguments.read_text(prompt)
    options: SamplingOptions = arguments.sampling(
        {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "seed": seed,
            "stop": stop or (),
            "logprobs": logprobs,
        }
    )
    from boli.engine.loading import load  # noqa: PLC0415  NumPy and Numba: only when the request is sound

    with (
        TerminalProgress() as progress,
        load(
            model,
            threads=threads,
            context=context,
            weights=weights,
            kv_cache_type=kv_cache_type,
            speculation=speculation,
            progress=progress,
        ) as llm,
    ):
        if json:
            completion = llm.generate(text, **options)
            keep(completion)
            answer = document(llm, completion, sampled=temperature > 0)
            if receipt or receipt_svg is not None:
                account = receipt_of(llm, completion)
                answer["receipt"] = account.to_json()
                if receipt_svg is not None:
                    save_receipt(account, receipt_svg)
            print_json(answer)
            return
        with llm.stream(text, **options) as stream:
            if prompt != "-":
                _echo(text)
            write_answer(stream)
        keep(stream.completion)
        if stream.completion.logprobs is not None:
            print_logprobs(llm.tokenizer, stream.completion.logprobs)
        print_summary(stream.completion, sampled=temperature > 0, loaded=True)
        if receipt or receipt_svg is not None:
            account = receipt_of(llm, stream.completion)
            if receipt:
                print_receipt(account)
            if receipt_svg is not None:
                save_receipt(account, receipt_svg)


def _echo(prompt: str) -> None:
    """Shows the prompt before its continuation where a person looks at both; it is no result."""
    if is_terminal(sys.stderr) and is_terminal(sys.stdout) and len(prompt) <= _LONGEST_ECHO:
        sys.stderr.write(styled(visible(prompt, lines=True), "dim", sys.stderr))
        sys.stderr.flush()
