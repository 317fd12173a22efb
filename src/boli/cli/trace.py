"""`boli trace`: what happened in a run, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from boli.cli import arguments
from boli.cli.progress import TerminalProgress
from boli.cli.terminal import note, print_json
from boli.cli.tokenize import parse_messages
from boli.errors import UsageError

if TYPE_CHECKING:
    from boli.engine.llm import LLM
    from boli.engine.params import SamplingOptions
    from boli.engine.record import RunRecord
    from boli.trace import Price, Trace

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

#: Number formats that a floating-point model can be rounded to, by the names that files have for them.
_FORMS = {"BF16": "bf16", "Q8_0": "int8", "Q4_1": "int4", "bf16": "bf16", "int8": "int8", "int4": "int4"}

# What only a run, and what only a replay can be told.
_OF_A_RUN = (
    "chat", "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "stop", "weights", "kv_cache_type",
)  # fmt: skip
_OF_A_REPLAY = ("detail", "compare", "model", "context", "threads")

application = typer.Typer(add_completion=False, rich_markup_mode=None)


@application.command(help=HELP)
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
    step: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this decision.", show_default=False)
    ] = None,
    layer: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this layer.", show_default=False)
    ] = None,
    head: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this head.", show_default=False)
    ] = None,
    language: Annotated[
        Literal["en", "zh"], typer.Option(metavar="LANGUAGE", help="Of the text around: en, zh.")
    ] = "en",
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
    max_tokens: arguments.MaxTokens = 32,
    temperature: arguments.Temperature = 0.0,
    top_k: arguments.TopK = 0,
    top_p: arguments.TopP = 1.0,
    min_p: arguments.MinP = 0.0,
    repetition_penalty: arguments.RepetitionPenalty = 1.0,
    presence_penalty: arguments.PresencePenalty = 0.0,
    frequency_penalty: arguments.FrequencyPenalty = 0.0,
    seed: arguments.Seed = None,
    stop: arguments.Stop = None,
    context: arguments.Context = None,
    threads: arguments.Threads = None,
    weights: arguments.Weights = "auto",
    kv_cache_type: arguments.KvCacheType = "bf16",
) -> None:
    """Traces a run and shows it."""  # fmt: skip
    if (prompt is None) is not last:
        raise UsageError(
            "say what to trace: a prompt, a file, or --last"
            if prompt is None
            else "a prompt, or --last: not both"
        )
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
            "logprobs": 0,
        }
    )
    if json:
        _refuse(ctx, ("step", "layer", "head", "language"), "--json prints the whole trace")
    loading = _Loading(model, context, threads, weights, kv_cache_type)
    found = _found(prompt)
    if found is not None:
        _refuse(ctx, (*_OF_A_RUN, *_OF_A_REPLAY), "the trace is made already")
        made = found
    else:
        run = _run_of(prompt)
        if run is not None:
            _refuse(ctx, _OF_A_RUN, "the run was made already, with settings of its own")
        text = arguments.read_text(prompt) if run is None and prompt is not None else ""
        messages = parse_messages(text) if chat else None
        with TerminalProgress() as progress, loading.load(progress, run) as llm:
            if run is None:
                completion = (
                    llm.generate(text, **options) if messages is None else llm.chat(messages, **options)
                )
                run = completion.record
            made = _replayed(llm, run, detail)
        if compare is not None:
            made = made.compare(_other(compare, loading, run, detail))
    if save is not None:
        made.save(save)
        note(f"written: {save}", "dim")
    if html is not None:
        made.html(html)
        note(f"written: {html}", "dim")
    if json:
        print_json(made.document())
    elif html is None or step is not None or layer is not None or head is not None:
        _show(made, step, layer, head, language, compared=compare is not None)


def _refuse(ctx: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuses options that would do nothing, rather than ignore them."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} has no meaning here: {why}")


class _Loading:
    """How the models of this command are loaded."""

    def __init__(
        self, model: str | None, context: int | None, threads: int | None, weights: str, kv_cache_type: str
    ) -> None:
        self._model, self._context, self._threads = model, context, threads
        self._weights, self._kv = weights, kv_cache_type

    def load(self, progress: TerminalProgress, run: RunRecord | None = None, name: str | None = None) -> LLM:
        """The model that was asked for, or that made a run, as it was then."""
        from boli.engine.loading import load  # noqa: PLC0415  NumPy: only when the request is sound

        weights, kv, context = self._weights, self._kv, self._context
        if run is not None:
            weights = weights if run.model.weights == "stored" or name is not None else run.model.weights
            kv, context = run.model.kv_cache_type, context or run.model.context
        form = _FORMS.get(name or "")
        if form is not None:
            weights, name = form, None
        default = "smollm2" if run is None else _found_again(run)
        return load(
            name or self._model or default,
            context=context,
            threads=self._threads,
            weights=weights,  # type: ignore[arg-type]
            kv_cache_type=kv,  # type: ignore[arg-type]
            progress=progress,
        )


def _found_again(run: RunRecord) -> str:
    """What loads the model of a run, from whichever folder this is typed in."""
    from boli.sources.aliases import ALIASES  # noqa: PLC0415

    name = run.model.name
    if name in ALIASES or name.startswith(("hf:", "ms:", "pypi:")) or not Path(run.model.path).exists():
        return name
    return run.model.path


def _found(prompt: str | None) -> Trace | None:
    """The trace in a file, if the prompt names one."""
    path = _file(prompt)
    if path is None:
        return None
    from boli.engine.json_files import read_json  # noqa: PLC0415
    from boli.engine.record import SCHEMA  # noqa: PLC0415
    from boli.trace import Trace  # noqa: PLC0415
    from boli.trace.files import LARGEST_FILE, checked  # noqa: PLC0415

    document = read_json(path, LARGEST_FILE)
    if isinstance(document, dict) and document.get("schema") == SCHEMA:
        return None
    return Trace(checked(document, path.name))


def _run_of(prompt: str | None) -> RunRecord | None:
    """The run that is to be traced again: the last one, or that in a file."""
    from boli.engine.record import last_run, load_record  # noqa: PLC0415

    if prompt is None:
        if not last_run().exists():
            raise UsageError(
                "there is no last run",
                cause="nothing was generated yet, or BOLI_KEEP_RUNS=0 keeps none",
                remedy='run something first, such as: boli generate "Hello"',
            )
        return load_record(last_run())
    path = _file(prompt)
    return None if path is None else load_record(path)


def _file(prompt: str | None) -> Path | None:
    """The file that a prompt names, if it does."""
    if prompt is None or not prompt.endswith(".json") or any(map(str.isspace, prompt)):
        return None
    if not (path := Path(prompt)).is_file():
        raise UsageError(
            f"there is no file {prompt}",
            remedy="to trace this as a text, pipe it: echo … | boli trace -",
        )
    return path


def _replayed(llm: LLM, run: RunRecord, detail: str, *, other_model: bool = False) -> Trace:
    from boli.trace.replay import replay  # noqa: PLC0415

    return replay(
        llm,
        run,
        detail=detail,  # type: ignore[arg-type]
        roofline=not other_model,
        other_model=other_model,
        announce=_announce,
    )


def _announce(price: Price) -> None:
    from boli.engine.ledger import readable  # noqa: PLC0415

    seconds = "" if price.seconds is None else f", about {price.seconds:.1f} s"
    note(f"tracing in detail {price.detail!r}: {readable(price.bytes)} of arrays{seconds}", "dim")


def _other(name: str, loading: _Loading, run: RunRecord, detail: str) -> Trace:
    """The same tokens through another model."""
    with TerminalProgress() as progress, loading.load(progress, run, name) as llm:
        return _replayed(llm, run, detail, other_model=True)


def _show(
    made: Trace, step: int | None, layer: int | None, head: int | None, language: str, *, compared: bool
) -> None:
    from boli.cli.trace_print import print_trace, stdout_console  # noqa: PLC0415  brings in rich
    from boli.trace.view.parts import Language  # noqa: PLC0415

    document, tongue = made.document(), cast("Language", language)
    if compared:
        from boli.trace.view.terminal import print_compare  # noqa: PLC0415

        print_compare(document, stdout_console(), language=tongue)
    else:
        print_trace(document, step=step, layer=layer, head=head, language=tongue)
    proof = made.proof
    if proof["largest_logit_difference"] or proof["differences"]:
        note(
            f"the replay differs from the run: {proof['largest_logit_difference']:g} in a logit"
            + "".join(f"; {each}" for each in proof["differences"]),
            "yellow",
        )
