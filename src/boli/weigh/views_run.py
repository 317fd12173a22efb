"""Views of running a model: what is in memory, what fits a device, and how fast it can be."""

from __future__ import annotations

from boli.weigh.amount import scaled
from boli.weigh.fits import FitsAccount
from boli.weigh.run import RunAccount
from boli.weigh.speed import PhaseSpeed, SpeedAccount
from boli.weigh.views import Column, Facts, Section, Table, Unit


def view_run(fits: FitsAccount, run: RunAccount | None) -> Section:
    """What is in memory while the model runs, by the categories of the books."""
    facts = Facts()
    if run is not None:
        facts.say("whose", f"boli's engine with {run.threads} threads, as its ledger enters it")
        parts = run.categories
    else:
        facts.say("whose", "any engine with fused attention" if fits.engine == "model" else fits.engine)
        parts = fits.parts
    for name, part in parts.items():
        facts.tell(name, part)
    facts.tell("total", run.total if run else fits.total)
    tables = []
    if run is not None:
        unit = Unit(run.workspace.values())
        rows = [[name, *unit.cells(size), f"{size:,}"] for name, size in run.workspace.items()]
        tables.append(Table([Column("in the workspace"), *unit.columns, Column("bytes", numeric=True)], rows))
        facts.tell("each answer more", run.logits_row)
    return Section(
        title="Run",
        facts=facts.lines,
        tables=tables,
        explained=facts.explained,
        not_modelled=run.not_modelled if run else (),
    )


def view_fits(fits: FitsAccount) -> Section:
    """Whether it fits, how far it could grow, and the board of contexts and requests."""
    facts = Facts()
    facts.tell(fits.device.name, fits.capacity)
    verdict = "fits" if fits.fits else "does not fit"
    facts.tell(f"{fits.requests:,} × {fits.context:,}, {fits.format}", fits.total, verdict)
    facts.tell("free" if fits.fits else "missing", fits.free)
    if fits.largest_context is not None:
        facts.tell("largest context", fits.largest_context, f"with {_requests(fits.requests)}")
    if fits.largest_requests is not None:
        facts.tell("most requests", fits.largest_requests, f"of {fits.context:,} positions")
    facts.say("best format", fits.best_format or "none fits")
    unit = Unit(each.value for each in fits.formats.values())
    formats = [
        [name, each.mark, *unit.cells(each.value), "fits" if each.value <= fits.capacity.value else "-"]
        for name, each in fits.formats.items()
    ]
    tables = [Table([Column("all of it in"), Column(""), *unit.columns, Column("")], formats)]
    if fits.board:
        tables.append(_board(fits))
    return Section(
        title="What fits",
        facts=facts.lines,
        tables=tables,
        explained=facts.explained,
        notes=["the last table: contexts across, requests down, (what does not fit)", *fits.notes],
        not_modelled=fits.not_modelled,
    )


def _board(fits: FitsAccount) -> Table:
    """Totals in GiB; what does not fit is in parentheses."""
    contexts = [Column(f"{cell.context:,}", numeric=True) for cell in fits.board[0]]
    rows = []
    for line in fits.board:
        sizes = [f"{cell.bytes / 2**30:,.1f}" for cell in line]
        shown = [size if cell.fits else f"({size})" for size, cell in zip(sizes, line, strict=True)]
        rows.append([f"{line[0].requests:,}", *shown])
    return Table([Column("GiB", numeric=True), *contexts], rows)


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count:,} requests"


def view_speed(speed: SpeedAccount) -> Section:
    """The roofline of decoding and of reading a prompt."""
    facts = Facts()
    facts.say("device", speed.device)
    for name, rate in (("bandwidth", speed.bandwidth), (f"peak, {speed.compute}", speed.peak)):
        if rate is not None:
            facts.tell(name, rate)
    if speed.ridge is not None:
        facts.tell("ridge", speed.ridge, "where memory and compute take as long")
    columns = [
        Column("tokens/s"),
        *(Column(name, numeric=True) for name in ("low", "best", "high", "ceiling")),
        Column("bound by"),
    ]
    rows = []
    for name, phase in _phases(speed):
        if phase.best is None or phase.low is None or phase.high is None or phase.ceiling is None:
            continue
        rates = (phase.low, phase.best, phase.high, phase.ceiling)
        numbers = [f"{rate.mark} {_rate(rate.value)}" for rate in rates]
        rows.append([name, *numbers, phase.binds])
        facts.explained += [
            (f"{name}: bytes read", phase.bytes),
            (f"{name}: operations", phase.flop),
            *((f"{name}: {which}", rate) for which, rate in zip(_RATES, rates, strict=True)),
        ]
        if phase.seconds is not None:
            facts.explained.append((f"{name}: a step at the limits", phase.seconds))
        facts.tell(f"{name} reads", phase.bytes, f"and computes {scaled(phase.flop.value, 'FLOP')}")
    return Section(
        title="Speed",
        facts=facts.lines,
        tables=[Table(columns, rows)] if rows else [],
        explained=facts.explained,
        notes=[f"low, best and high: shares of the limits; {speed.efficiency.source}"],
        not_modelled=speed.not_modelled,
    )


_RATES = ("low", "best", "high", "ceiling")


def _phases(speed: SpeedAccount) -> list[tuple[str, PhaseSpeed]]:
    phases = [(f"prompt of {speed.prompt:,}", speed.prefill)]
    if speed.decode is not None:
        phases.insert(0, (f"decode at {speed.context:,}", speed.decode))
    return phases


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"
