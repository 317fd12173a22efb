"""`boli bench`: how fast a model runs here, held against what the machine can do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boli.cli.arguments import (
    STDIN_LIMIT,
    Json,
    KvCacheType,
    Receipt,
    ReceiptSvg,
    Threads,
    Weights,
    decode,
    read_text,
)
from boli.cli.progress import TerminalProgress
from boli.cli.receipt import print_receipt, receipt_of_bench, save_receipt
from boli.cli.table import Column, print_facts, print_table
from boli.cli.terminal import human_bytes, note, print_json
from boli.errors import PromptError, UsageError

if TYPE_CHECKING:
    from boli.bench import Rate, Result
    from boli.cpu.limits import Spread

HELP = """Measure how fast a model runs here, and what holds it back.

First the machine: how fast its memory is read, and how many operations it does, by compiled loops
on the same threads. Then a prompt and an answer, several times, and the share of those limits that
they reach. Tokenization and sampling are not in these rates; they are told apart. No token is
guessed (speculation). Close other programs first.

--depth N decodes behind N positions of context; --batch B decodes B sequences together.
--quality compares the answers with the same weights in float32: the mean KL divergence on a text.
--receipt adds what `boli weigh` predicts for this machine: bytes by category, and both speeds.

\b
Examples:
  boli bench
  boli bench gemma3-270m --prompt-tokens 128 --new-tokens 32
  boli bench smollm2 --depth 4096 --batch 4 --json
  boli bench smollm2 --quality --text novel.txt
"""

application = typer.Typer(add_completion=False, rich_markup_mode=None)


@application.command(help=HELP)
def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, as --model takes it.")] = "smollm2",
    *,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens that each sequence decodes.")
    ] = 128,
    batch: Annotated[int, typer.Option(metavar="B", min=1, help="Sequences that decode together.")] = 1,
    depth: Annotated[int, typer.Option(metavar="N", min=0, help="Positions of context before decoding.")] = 0,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="How often all is measured.")] = 5,
    threads: Threads = None,
    weights: Weights = "auto",
    kv_cache_type: KvCacheType = "bf16",
    quality: Annotated[bool, typer.Option("--quality", help="Compare with float32, too.")] = False,
    text: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Text for --quality; - reads stdin.", show_default="one of boli's"),
    ] = None,
    receipt: Receipt = False,
    receipt_svg: ReceiptSvg = None,
    json: Json = False,
) -> None:
    """Measures a model and prints what came out."""
    if text is not None and not quality:
        raise UsageError("--text is for --quality", remedy="add --quality")
    content = None if text is None else _read(text)
    from boli.bench import run  # noqa: PLC0415  NumPy and Numba: only when the request is sound

    with TerminalProgress() as progress:
        result = run(
            model,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            batch=batch,
            depth=depth,
            repeat=repeat,
            threads=threads,
            weights=weights,
            kv_cache_type=kv_cache_type,
            quality=quality,
            text=content,
            progress=progress,
        )
    account = receipt_of_bench(result) if receipt or receipt_svg is not None else None
    if json:
        document = result.document()
        if account is not None:
            document["receipt"] = account.to_json()
        print_json(document)
    else:
        _print(result)
        if account is not None and receipt:
            sys.stdout.write("\n")
            print_receipt(account)
    if account is not None and receipt_svg is not None:
        save_receipt(account, receipt_svg)
    for warning in result.warnings:
        note(f"warning: {warning}", "yellow")


def _read(name: str) -> str:
    """The text of a file, or of stdin.

    Raises:
        PromptError: It is empty, too long, or not UTF-8.
    """
    if name == "-":
        return read_text("-")
    path = Path(name)
    with path.open("rb") as file:
        data = file.read(STDIN_LIMIT + 1)
    if len(data) > STDIN_LIMIT:
        raise PromptError(f"{name} is too long", cause=f"it has more than {STDIN_LIMIT:,} bytes")
    return decode(data, name)


def _print(result: Result) -> None:
    settings, limits = result.settings, result.limits
    facts = [
        ("model", f"{result.model}: {result.format}, {result.parameters:,} parameters"),
        ("weights", f"{result.weights}; KV cache in {settings.kv_cache_type}"),
        ("machine", f"{result.cpu}, {_count(settings.threads, 'thread')}"),
        ("  reads", _spread(limits.read_bytes_per_s, 1e9, "GB/s")),
        ("  int8", _spread(limits.int8_ops_per_s, 1e9, "Gop/s")),
        ("  bf16", _spread(limits.bf16_ops_per_s, 1e9, "Gop/s")),
        ("  f32", _spread(limits.f32_ops_per_s, 1e9, "Gop/s")),
    ]
    print_facts(facts)
    sys.stdout.write("\n")
    titles = ("tokens/s", "median", "min", "max", "of bandwidth", "of peak")
    columns = [Column(title, numeric=title != "tokens/s") for title in titles]
    decode_name = f"decode {settings.new_tokens}"
    if settings.batch > 1:
        decode_name += f" × {settings.batch}"
    if settings.depth:
        decode_name += f" at {settings.depth:,}"
    prefill_name = f"prefill {settings.prompt_tokens}"
    print_table(columns, [_row(prefill_name, result.prefill), _row(decode_name, result.decode)])
    sys.stdout.write("\n")
    print_facts([*_explained(result), *_rest(result)])


def _row(name: str, rate: Rate) -> list[str]:
    speeds = (rate.tokens_per_s.median, rate.tokens_per_s.min, rate.tokens_per_s.max)
    shares = (rate.share_of_bandwidth, rate.share_of_peak)
    return [name, *(f"{speed:,.1f}" for speed in speeds), *(f"{share:.1%}" for share in shares)]


def _explained(result: Result) -> list[tuple[str, str]]:
    """What binds, and what a decode step reads."""
    decode, batch = result.decode, result.settings.batch
    step = decode.bytes_per_token * batch
    cache = max(0, round(step - result.weight_bytes))
    reads = f"{human_bytes(round(step))} a step: {human_bytes(result.weight_bytes)} of weights"
    reads += f", {human_bytes(cache)} of KV cache"
    return [
        (
            "prefill",
            f"{result.prefill.binds} binds; {result.prefill.operations_per_token / 1e6:,.1f} Mop a token",
        ),
        ("decode", f"{decode.binds} binds; {reads}"),
    ]


def _rest(result: Result) -> list[tuple[str, str]]:
    """What is not in the rates."""
    apart, quality = result.apart, result.quality
    facts = []
    if apart.tokenization is not None:
        facts.append(
            ("tokenization", f"{_spread(apart.tokenization, 1e-6, 'µs')} a token, first time included")
        )
    facts.append(("sampling", f"{_spread(apart.greedy, 1e-6, 'µs')} a token, greedy"))
    facts.append(("", f"{_spread(apart.drawn, 1e-6, 'µs')} a token, drawn with top-p 0.95"))
    facts.append(("loading", f"{result.load_s:.2f} s"))
    if quality is not None:
        same = f"the same likeliest token at {quality.same_best:.1%} of {quality.positions} positions"
        distance = f"mean KL {quality.mean_kl:.5f} ± {quality.error:.5f} nats from float32"
        facts.append(("quality", f"{distance}; {same}"))
    return facts


def _spread(spread: Spread, unit: float, name: str) -> str:
    """`29.1 GB/s (27.0 to 30.2)`."""
    median, least, most = (f"{value / unit:,.1f}" for value in (spread.median, spread.min, spread.max))
    return f"{median} {name} ({least} to {most})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
