"""What `boli trace` traces: a prompt, the last run, or a file; and the model that it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from boli.cli.options import Loading
from boli.cli.terminal import note
from boli.errors import UsageError

if TYPE_CHECKING:
    from boli.cli.progress import TerminalProgress
    from boli.engine.llm import LLM
    from boli.engine.record import RunRecord
    from boli.trace import Price, Trace
    from boli.trace.prices import Detail

#: Number formats that a floating-point model can be rounded to, by the names that files have for them.
_FORMS = {"BF16": "bf16", "Q8_0": "int8", "Q4_1": "int4", "bf16": "bf16", "int8": "int8", "int4": "int4"}


def found_trace(prompt: str | None) -> Trace | None:
    """The trace in a file, if the prompt names one.

    Raises:
        UsageError: There is no such file.
        CorruptFile: It holds neither a trace nor a run.
    """
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


def found_run(prompt: str | None) -> RunRecord | None:
    """The run that is to be traced again: the last one if there is no prompt, or that in a file.

    Raises:
        UsageError: Nothing was run yet.
    """
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


def load_first(loading: Loading, model: str | None, run: RunRecord | None, progress: TerminalProgress) -> LLM:
    """The model that was asked for, or that made a run, as it was then."""
    if run is None:
        return loading.load(model or "smollm2", progress)
    return _as_it_was(loading, run, weights=True).load(model or _name_of(run), progress)


def load_other(
    loading: Loading, name: str, model: str | None, run: RunRecord, progress: TerminalProgress
) -> LLM:
    """The model that a run is compared with: another one, or the same in another form of weights."""
    form = _FORMS.get(name)
    if form is None:
        return _as_it_was(loading, run, weights=False).load(name, progress)
    loading = replace(_as_it_was(loading, run, weights=False), weights=form)  # type: ignore[arg-type]
    return loading.load(model or _name_of(run), progress)


def _as_it_was(loading: Loading, run: RunRecord, *, weights: bool) -> Loading:
    """With the cache and the context of a run, and its form of weights unless the files hold that."""
    kept = replace(
        loading,
        kv_cache_type=run.model.kv_cache_type,  # type: ignore[arg-type]
        context=loading.context or run.model.context,
    )
    if weights and run.model.weights != "stored":
        kept = replace(kept, weights=run.model.weights)  # type: ignore[arg-type]
    return kept


def _name_of(run: RunRecord) -> str:
    """What loads the model of a run, from whichever folder this is typed in."""
    from boli.sources.aliases import ALIASES  # noqa: PLC0415

    name = run.model.name
    if name in ALIASES or name.startswith(("hf:", "ms:", "pypi:")) or not Path(run.model.path).exists():
        return name
    return run.model.path


def replayed(llm: LLM, run: RunRecord, detail: str, *, other_model: bool = False) -> Trace:
    """The trace of a run; what each detail costs is said first."""
    from boli.trace.replay import replay  # noqa: PLC0415

    chosen = cast("Detail", detail)
    return replay(
        llm,
        run,
        detail=chosen,
        roofline=not other_model,
        other_model=other_model,
        announce=lambda prices: _announce(chosen, prices),
    )


def _announce(chosen: Detail, prices: Mapping[Detail, Price]) -> None:
    others = "; ".join(f"{detail}: {_told(price)}" for detail, price in prices.items() if detail != chosen)
    note(f"tracing in detail {chosen!r}: {_told(prices[chosen])} ({others})", "dim")


def _told(price: Price) -> str:
    from boli.engine.ledger import readable  # noqa: PLC0415

    size = f"{readable(price.bytes)} of arrays" if price.bytes else "no arrays"
    return size if price.seconds is None else f"{size}, about {price.seconds:.1f} s"
