"""`boli models show`: a model's family, configuration and tensors, from its headers alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from boli.cli.arguments import Json, ModelName
from boli.cli.table import Column, print_facts, print_table
from boli.cli.terminal import human_bytes, print_json

if TYPE_CHECKING:
    from boli.blueprint import Config
    from boli.blueprint.config import Rope
    from boli.formats.checkpoint import Checkpoint
    from boli.sources import LocalModel

SHOW_HELP = """Show what a model is made of.

Its family, its configuration, and its tensors with type, shape and bytes. Only the headers of its
files are read. The model has to be here already.

\b
Examples:
  boli models show smollm2
  boli models show ./my-model --json
"""


def show(
    model: ModelName,
    json: Json = False,
) -> None:
    """Prints what a model's files say."""
    from boli.formats.checkpoint import open_checkpoint  # noqa: PLC0415
    from boli.sources import resolve  # noqa: PLC0415

    local = resolve(model, download=False)
    with open_checkpoint(local.path) as checkpoint:
        if json:
            print_json(_document(local, checkpoint))
        else:
            _print(local, checkpoint)


def _totals(checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
    """For each type of number: how many tensors, numbers and bytes."""
    totals: dict[str, dict[str, int]] = {}
    for tensor in checkpoint.tensors:
        total = totals.setdefault(tensor.format.name, {"tensors": 0, "numbers": 0, "bytes": 0})
        total["tensors"] += 1
        total["numbers"] += math.prod(tensor.shape)
        total["bytes"] += tensor.nbytes
    return dict(sorted(totals.items(), key=lambda item: -item[1]["bytes"]))


def _document(local: LocalModel, checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "name": local.name,
        "source": local.source,
        "path": str(local.path),
        "format": checkpoint.format,
        "family": checkpoint.blueprint.config.family,
        "parameters": checkpoint.blueprint.parameters,
        "configuration": asdict(checkpoint.blueprint.config),
        "tensors": [
            {"name": t.name, "type": t.format.name, "shape": list(t.shape), "bytes": t.nbytes}
            for t in checkpoint.tensors
        ],
        "totals": _totals(checkpoint),
        "unused": checkpoint.unused,
    }


def _print(local: LocalModel, checkpoint: Checkpoint) -> None:
    blueprint = checkpoint.blueprint
    print_facts(
        [
            ("model", local.name),
            ("file" if checkpoint.gguf else "folder", str(local.path)),
            ("family", blueprint.config.family),
            ("parameters", f"{blueprint.parameters:,}"),
            *_configuration(blueprint.config),
        ]
    )
    sys.stdout.write("\n")
    columns = [Column("tensor"), Column("type"), Column("shape", numeric=True), Column("bytes", numeric=True)]
    rows = [
        [t.name, t.format.name, " × ".join(map(str, t.shape)), f"{t.nbytes:,}"] for t in checkpoint.tensors
    ]
    print_table(columns, rows)
    sys.stdout.write("\n")
    columns = [
        Column("type"),
        *(Column(name, numeric=True) for name in ("tensors", "numbers", "bytes", "size")),
    ]
    totals = _totals(checkpoint)
    print_table(
        columns,
        [
            [name, f"{t['tensors']:,}", f"{t['numbers']:,}", f"{t['bytes']:,}", human_bytes(t["bytes"])]
            for name, t in totals.items()
        ],
    )
    if checkpoint.unused:
        sys.stdout.write(f"\nNot used by boli: {', '.join(checkpoint.unused)}\n")


def _configuration(config: Config) -> Iterable[tuple[str, str]]:
    """The configuration in words, long lists summed up."""
    for name, value in asdict(config).items():
        if name in {"family", "extra"} or value is None:
            continue
        if name == "layer_types":
            kinds = sorted(set(config.layer_types))
            yield name, ", ".join(f"{config.layer_types.count(kind)} {kind}" for kind in kinds)
        elif name.startswith("rope"):
            yield name, _rope(getattr(config, name))
        elif isinstance(value, tuple):
            yield name, ", ".join(map(str, value))
        elif isinstance(value, float):
            yield name, f"{value:.6g}"
        else:
            yield name, str(value)
    yield from config.extra.items()


def _rope(rope: Rope) -> str:
    return f"theta {rope.theta:g}, {rope.dim} numbers of each head, scaling: {rope.scaling}"
