"""Views of what a model is: its weights, their bytes by number format, its KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from boli.weigh.amount import Amount, amount, plain
from boli.weigh.blocks import BLOCKS
from boli.weigh.formats import FormatBytes
from boli.weigh.kv import KvAccount
from boli.weigh.model import Model
from boli.weigh.parts import parts_of, percent
from boli.weigh.views import Column, Facts, Section, Table, Unit, ranges
from boli.weigh.weights import WeightGroup, WeightsAccount


def view_weights(model: Model, weights: WeightsAccount) -> Section:
    """Every weight, equal ones of all layers in one row."""
    groups = _ordered(weights)
    unit = Unit(group.bytes for group in groups)
    rows = []
    for group in groups:
        row = group.row
        size = ["tied", "tied"] if row.tied_to else unit.cells(group.bytes)
        rows.append(
            [
                row.role.replace("_", " ") + (" (MTP)" if row.prediction else ""),
                " × ".join(map(str, row.shape)),
                str(group.count) if group.layers else "-",
                f"{prod(row.shape):,}",
                row.type,
                *size,
                f"to {row.tied_to}" if row.tied_to else ranges(group.layers) or "-",
                _template(group),
            ]
        )
    columns = [
        Column("weight"),
        Column("shape"),
        Column("layers", numeric=True),
        Column("parameters", numeric=True),
        Column("type"),
        *unit.columns,
        Column("which", spare=True),
        Column("name", spare=True),
    ]
    facts = Facts()
    facts.tell("parameters", weights.parameters)
    facts.tell("  without embeddings", weights.parameters_without_embeddings)
    facts.tell("  active in a token", weights.active_parameters, _why_active(model, weights))
    facts.tell("bytes", weights.bytes)
    if model.blueprint.prediction:
        facts.tell("with MTP as stored", weights.stored_parameters)
        facts.tell("  bytes", weights.stored_bytes)
    return Section(
        title="Weights",
        facts=facts.lines,
        tables=[_shares(weights), Table(columns, rows)],
        explained=[
            *facts.explained,
            *((f"{_template(group)}", _explained(group)) for group in weights.groups),
        ],
        notes=["parameters are those of one weight, bytes those of all layers"],
        not_modelled=[note for note in weights.not_modelled if note not in model.notes],
    )


def _shares(weights: WeightsAccount) -> Table:
    """Who takes how much."""
    parts = parts_of(weights)
    unit = Unit(part.bytes for part in parts)
    numbers, size = weights.parameters.value, weights.bytes.value
    rows = [
        [part.name, f"{part.parameters:,}", percent(part.parameters, numbers), *unit.cells(part.bytes),
         percent(part.bytes, size)]
        for part in parts
    ]  # fmt: skip
    share = Column("share", numeric=True)
    return Table([Column("part"), Column("parameters", numeric=True), share, *unit.columns, share], rows)


def _ordered(weights: WeightsAccount) -> list[WeightGroup]:
    """The groups in the model's order; those of one weight in several number formats side by side."""
    order = {name: place for place, name in enumerate(dict.fromkeys(map(_template, weights.groups)))}
    return sorted(weights.groups, key=lambda group: (group.row.prediction, order[_template(group)]))


def _why_active(model: Model, weights: WeightsAccount) -> str:
    """What the active parameters leave out."""
    if model.blueprint.config.experts is not None:
        both = weights.active_parameters_with_embedding
        return f"({plain(both.value)} with the embedding)"
    return ""


def _template(group: WeightGroup) -> str:
    """A weight's name with # for its layer."""
    row = group.row
    return row.name if row.layer is None else row.name.replace(f".{row.layer}.", ".#.", 1)


def _explained(group: WeightGroup) -> Amount:
    """The bytes of equal weights from their shape."""
    row = group.row
    if row.tied_to:
        return amount("bytes", "0", note=f"shares the numbers of {row.tied_to}")
    inputs = {"layers": group.count}
    names = ("experts", "rows", "columns")[-len(row.shape) :] if len(row.shape) <= 3 else ()
    inputs |= dict(zip(names, row.shape, strict=True)) if names else {"numbers": prod(row.shape)}
    formula = " · ".join(inputs)
    block = BLOCKS.get(row.type)
    if block is None or prod(inputs.values()) // block[0] * block[1] != group.bytes:
        return amount("bytes", "layers · bytes_of_one", layers=group.count, bytes_of_one=row.bytes)
    if block[0] == 1:
        return amount("bytes", f"{formula} · bytes", inputs, bytes=block[1])
    return amount("bytes", f"{formula} // block · block_bytes", inputs, block=block[0], block_bytes=block[1])


def view_formats(formats: Mapping[str, FormatBytes], chosen: str) -> Section:
    """What the model takes in every number format."""
    unit = Unit(each.bytes.value for each in formats.values())
    rows = [
        [
            ("▸ " if name == chosen else "") + name,
            f"{each.bits_per_weight.value:.4f}",
            each.bytes.mark,
            *unit.cells(each.bytes.value),
            f"{each.bytes.value:,}",
            " ".join(each.by_type),
            "; ".join(each.notes),
        ]
        for name, each in formats.items()
    ]
    columns = [
        Column("format"),
        Column("bits", numeric=True),
        Column(""),
        *unit.columns,
        Column("bytes", numeric=True),
        Column("made of"),
        Column("notes", spare=True),
    ]
    return Section(
        title="Bytes by number format",
        tables=[Table(columns, rows)],
        explained=[(name, each.bytes) for name, each in formats.items()],
        notes=["bits are of one weight on average, with scales; a GGUF file has a header besides"],
    )


def view_tensors(chosen: FormatBytes) -> Section:
    """One format tensor by tensor, equal ones of neighbouring layers apart."""
    columns = [
        Column("tensor"), Column("shape"), Column("type"), Column("bits", numeric=True),
        Column("bytes", numeric=True),
    ]  # fmt: skip
    rows = [
        [
            each.name,
            " × ".join(map(str, each.shape)),
            each.type,
            f"{each.bits_per_weight:.4f}",
            f"{each.bytes:,}",
        ]
        for each in chosen.tensors
    ]
    return Section(title=f"Every tensor in {chosen.name}", tables=[Table(columns, rows)])


def view_kv(kv: KvAccount, others: Mapping[str, KvAccount]) -> Section:
    """The KV cache, and what other rules say of the same."""
    facts = Facts()
    facts.say("whose", f"{kv.engine}, {kv.dtype}")
    facts.say("for", f"{kv.requests:,} × {kv.context:,} positions")
    facts.tell("cache", kv.bytes)
    facts.tell("  a token", kv.bytes_per_token)
    facts.tell("  a further token", kv.bytes_per_further_token)
    facts.tell("  fixed", kv.fixed_bytes)
    for name, variant in kv.variants.items():
        facts.tell(f"  MLA {name}, a token", variant)
    unit = Unit([kv.bytes.value, *(other.bytes.value for other in others.values())])
    tables = []
    if others:
        columns = [
            Column("rule"), Column("type"), *unit.columns, Column("B a token", numeric=True),
        ]  # fmt: skip
        rows = [
            [other.engine, other.dtype, *unit.cells(other.bytes.value), f"{other.bytes_per_token.value:,}"]
            for other in (kv, *others.values())
        ]
        tables.append(Table(columns, rows))
    explained = list(facts.explained)
    for layers in kv.layers:
        name = f"{layers.count} {layers.kind} layers" + (f" of {layers.window:,}" if layers.window else "")
        explained += [
            (f"{name}: a position", layers.row),
            (f"{name}: positions", layers.positions),
            (name, layers.bytes),
        ]
    return Section(
        title="KV cache",
        facts=facts.lines,
        tables=tables,
        explained=explained,
        notes=kv.notes,
        not_modelled=kv.not_modelled,
    )
