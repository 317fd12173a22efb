"""`boli weigh`: every byte of a model before it is downloaded, each number with its formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boli.cli.arguments import Json, Threads
from boli.cli.terminal import note, print_json
from boli.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    from boli.weigh.account import Account
    from boli.weigh.views import Section
    from boli.weigh.views_account import Shown

HELP = """Weigh a model before it is downloaded: its bytes, what fits, how fast.

MODEL is a name such as llama-3.1-8b, a config.json, a folder, a .gguf or .safetensors file (headers
only), hf:org/name (configuration only), or nothing, and shapes. Two models are compared.

Every number has a mark: = exact, ! measured, ≈ calibrated, ~ assumed. --explain shows its formula.

\b
Examples:
  boli weigh llama-3.1-8b --device "RTX 3060 12GB" --weights Q4_K_M
  boli weigh smollm2 --explain
  boli weigh qwen2.5-7b llama-3.1-8b
  boli weigh gemma-3-270m --what-if context=32768 --what-if kv=int8
  boli weigh llama-2-13b --device "RTX 3060 12GB" --weights INT4 --fits
  boli weigh --hidden-size 4096 --layers 32 --heads 32 --kv-heads 8
  boli weigh gpt2-xl --training --zero 3 --devices 8 --batch 4
  boli weigh gemma-3-270m --html page.html --svg picture.svg
"""

application = typer.Typer(add_completion=False, rich_markup_mode=None)


@application.command(help=HELP)
def weigh(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="The model.", show_default=False)] = "",
    other: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="Another one, to compare.", show_default=False)
    ] = "",
    *,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Positions of a request.", show_default="the model's, 8192 at most"
        ),
    ] = None,
    requests: Annotated[int, typer.Option(metavar="N", min=1, help="Requests at once.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A machine such as 'RTX 3060 12GB'; 'this' measures this one."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Number format, such as Q4_K_M.", show_default="as stored"),
    ] = None,
    kv: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Of the KV cache: bf16, fp8, int8 …", show_default="16 bits"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose KV cache: boli, llama.cpp, vllm, transformers; or model, for any.",
            show_default="boli if it runs it",
        ),
    ] = None,
    threads: Threads = None,
    # shapes
    hidden_size: Annotated[int | None, typer.Option(metavar="N", help="Shape: width.")] = None,
    layers: Annotated[int | None, typer.Option(metavar="N", help="Shape: layers.")] = None,
    heads: Annotated[int | None, typer.Option(metavar="N", help="Shape: heads of queries.")] = None,
    kv_heads: Annotated[int | None, typer.Option(metavar="N", help="Shape: heads of keys, values.")] = None,
    head_dim: Annotated[int | None, typer.Option(metavar="N", help="Shape: width of a head.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(metavar="N", help="Shape: MLP's width.")] = None,
    vocab_size: Annotated[int | None, typer.Option(metavar="N", help="Shape: vocabulary.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N", help="Any other shape, as config.json calls it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    # training
    training: Annotated[bool, typer.Option("--training", help="Show all of training.")] = False,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Training: sequences at once.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Training: mixed, fp32, bf16, adam-8bit, mixed-fp32-gradients."),
    ] = None,
    zero: Annotated[int | None, typer.Option(metavar="STAGE", help="Training: ZeRO, 0 to 3.")] = None,
    devices: Annotated[int | None, typer.Option(metavar="N", help="Training: devices that share.")] = None,
    recompute: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Training: none, selective or full.")
    ] = None,
    attention: Annotated[str | None, typer.Option(metavar="KIND", help="Training: flash or eager.")] = None,
    rank: Annotated[int | None, typer.Option(metavar="N", help="Training: rank of LoRA.")] = None,
    lora: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Training: q,v  attention  all-linear  all-linear,head."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(metavar="N", help="Training: tokens to train on.")] = None,
    # what is shown
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Show what would change: context=32768, kv=int8 …; may be repeated.",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[bool, typer.Option("--formats", help="Show every number format.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor in --weights.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the formula of each number.")] = False,
    fits: Annotated[bool, typer.Option("--fits", help="Exit with 1 if it does not fit.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw pictures into a file.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with everything.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Weighs a model and prints what came out."""
    from boli.weigh.account import Question, answer  # noqa: PLC0415  only when something is asked
    from boli.weigh.whatif import changed  # noqa: PLC0415
    from boli.weigh.whatif import what_if as consider  # noqa: PLC0415

    question = Question(
        model=model, context=context, requests=requests, device=device, weights=weights, kv_dtype=kv,
        engine=engine, threads=threads,
        training=_given(
            micro_batch=batch, recipe=recipe, zero=zero, devices=devices, recompute=recompute,
            attention=attention, rank=rank, targets=lora, tokens=tokens,
        ),
        shapes=_given(
            hidden_size=hidden_size, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=head_dim, intermediate_size=intermediate_size,
            vocab_size=vocab_size,
        ),
    )  # fmt: skip
    for each in shape or ():
        question = changed(question, each)
    if other and (what_if or svg or html):
        raise UsageError("--what-if, --svg and --html are for one model", remedy="leave out the second")
    if tensors and weights is None:
        raise UsageError("--tensors shows the tensors of --weights", remedy="add --weights Q4_K_M")
    first = answer(question)
    accounts = [first, answer(replace(question, model=other))] if other else [first]
    changes = consider(first, what_if or ())
    if json:
        print_json(_document(accounts, changes))
    else:
        from boli.weigh.views_account import Shown  # noqa: PLC0415

        shown = Shown(formats=formats, tensors=tensors, training=training or bool(question.training))
        _print(accounts, changes, shown, explain=explain)
    for path, make in ((svg, _svg), (html, _html)):
        if path is not None:
            path.write_text(make(first), encoding="utf-8", errors="replace")
            note(f"written: {path}", "dim")
    if fits:
        _fail_unless(first)


def _given(**options: object) -> dict[str, object]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _document(accounts: Sequence[Account], changes: Sequence[tuple[Section, Account]]) -> object:
    """One account; or two; or one with what would change."""
    if len(accounts) > 1:
        return {"models": [account.to_json() for account in accounts]}
    document = accounts[0].to_json()
    if changes:
        document["what_if"] = [{"change": section.title, **then.to_json()} for section, then in changes]
    return document


def _print(
    accounts: Sequence[Account], changes: Sequence[tuple[Section, Account]], shown: Shown, *, explain: bool
) -> None:
    from boli.cli.weigh_print import print_sections  # noqa: PLC0415
    from boli.weigh.compare import compare  # noqa: PLC0415
    from boli.weigh.views_account import view  # noqa: PLC0415

    if len(accounts) > 1:
        names = (accounts[0].model.name, accounts[1].model.name)
        sections = [compare(*accounts, title=" and ".join(names), names=names)]
    elif changes:
        sections = [section for section, _ in changes]
    else:
        sections = view(accounts[0], shown)
    print_sections(sections, explain=explain)


def _svg(account: Account) -> str:
    from boli.weigh.picture_account import draw  # noqa: PLC0415

    return draw(account).svg()


def _html(account: Account) -> str:
    from boli.weigh.views_page import page  # noqa: PLC0415

    return page(account)


def _fail_unless(account: Account) -> None:
    """Ends with exit code 1 if the model does not fit.

    Raises:
        UnsupportedModel: It cannot be told.
    """
    if account.fits is None:
        raise UnsupportedModel(
            f"{account.model.name}: whether it fits cannot be told", cause="only its tensors are known"
        )
    if not account.fits.fits:
        from boli.weigh.amount import readable_bytes  # noqa: PLC0415

        missing = readable_bytes(-account.fits.free.value)
        note(f"does not fit into {account.fits.device.name}: {missing} are missing", "red")
        raise typer.Exit(1)
