"""Machines to run a model on: memory, bandwidth and peak speed by type, each with its source.

`devices.json` has the makers' figures as they were published; nobody checked them here, so they
count as assumed. What a maker did not publish is absent. Peaks are dense, without sparsity; those
of 16-bit types accumulate in float32 where the maker tells the two apart.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from boli.errors import UsageError
from boli.weigh.amount import Certainty

if TYPE_CHECKING:
    from boli.cpu.limits import Limits

Kind = Literal["gpu", "accelerator", "apple", "cpu"]

GIB: Final = 1 << 30
MOST_GIB: Final = 1 << 14  # of a machine whose memory its owner chooses
MOST_MEANT: Final = 6  # machines that an inexact name may fit
THIS: Final = "this"

# Words that add nothing to a name.
_MAKERS: Final = frozenset({
    "nvidia", "amd", "intel", "apple", "huawei", "google", "geforce", "radeon", "tesla", "quadro", "gpu",
    "cpu", "card",
})  # fmt: skip
_MEMORY: Final = re.compile(r"(?<![a-z0-9])(\d+)\s*(?:gib|gb|g)\b")  # not the 10 of A10G
_PIECES: Final = re.compile(r"[a-z]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A machine.

    Attributes:
        name: With the memory it has.
        kind: "cpu" and "apple" machines share their memory with everything else that runs.
        memory: Bytes. Makers' "GB" of GPUs are units of 1024³.
        bandwidth: Bytes a second between memory and processor, or None if unknown.
        flops: Operations a second by type: "fp32", "bf16", "fp16", "fp8", "int8"; without what is unknown.
        source: Where the figures come from.
        certainty: "assumed" for published figures, "measured" for this machine's.
        note: Other machines that the name could mean, and what else a reader should know.
    """

    name: str
    kind: Kind
    memory: int
    bandwidth: int | None
    flops: Mapping[str, int]
    source: str
    certainty: Certainty = "assumed"
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    device: Device
    keys: frozenset[str]  # the name and its aliases, squeezed, without memory
    pieces: frozenset[str]  # words and numbers of the name


def devices() -> tuple[Device, ...]:
    """Every machine of the catalogue; one for each size of memory that it is sold with."""
    return tuple(entry.device for entry in _entries())


def find_device(name: str) -> Device:
    """The machine that a text names: `RTX 3060 12GB`, `m2 max 64gb`, `A100-80`, or `this`.

    A name that fits several takes the first of the catalogue, and its note names the others.

    Raises:
        UsageError: There is none, with the nearest names.
    """
    text = " ".join(name[:100].lower().split())
    if text == THIS:
        return this_device()
    found = _matches(text)
    if not found:
        same = [entry.device.name for entry in _named(_MEMORY.sub(" ", text), None)]
        raise UsageError(
            f"there is no device {text!r} in the catalogue",
            cause="it has no such machine with that much memory" if same else "",
            remedy=f"choose from {', '.join(_some(same or _nearest(text)))}, "
            "or measure this machine with 'this'",
        )
    first, others = found[0].device, [entry.device.name for entry in found[1:]]
    if not others:
        return first
    also = f"the name also fits {', '.join(_some(others))}"
    return replace(first, note="; ".join(filter(None, (first.note, also))))


def this_memory() -> Device:
    """The machine that this runs on, by its memory alone: takes no time."""
    from boli.machine import cpu_name, memory_available, memory_total  # noqa: PLC0415

    return Device(
        name=f"this machine ({cpu_name()})",
        kind="cpu",
        memory=memory_total(),
        bandwidth=None,
        flops={},
        source="the system",
        certainty="measured",
        note=f"{memory_available() / GIB:.1f} GiB of the memory are free now",
    )


def this_device(threads: int | None = None) -> Device:
    """The machine that this runs on: what memory it has, and what compiled loops reach on its processor.

    Takes a second or two; the first time some more, to compile.

    Args:
        threads: How many work together; all usable cores if left out.

    Raises:
        OutOfMemory: There is no room for the measurement's buffer.
    """
    from boli.cpu.limits import measure  # noqa: PLC0415  # NumPy, and a second of work
    from boli.machine import usable_cores  # noqa: PLC0415

    return measured_device(measure(threads or usable_cores()))


def measured_device(limits: Limits) -> Device:
    """The machine that this runs on, with limits that were measured before."""
    device = this_memory()
    return replace(
        device,
        name=f"{device.name[:-1]}, {limits.threads} threads)",
        bandwidth=round(limits.read_bytes_per_s.median),
        flops={
            "fp32": round(limits.f32_ops_per_s.median),
            "bf16": round(limits.bf16_ops_per_s.median),
            "int8": round(limits.int8_ops_per_s.median),
        },
        source="medians of compiled loops (boli.cpu.limits)",
    )


def _matches(text: str) -> list[_Entry]:
    """The entries that a text fits, the best first."""
    memory = _MEMORY.search(text)
    words = _MEMORY.sub(" ", text)
    found = _named(words, None if memory is None else int(memory[1]))
    if not found and memory is None:
        # "A100-80", "M2 Max 64": the last number may be the memory.
        head, _, last = re.sub(r"[^a-z0-9]+", " ", words).strip().rpartition(" ")
        if last.isdecimal() and head:
            found = _named(head, int(last))
    return found


def _named(words: str, memory: int | None) -> list[_Entry]:
    key, pieces = _squeezed(words), _split(words)
    if not pieces:
        return []
    found = [entry for entry in _entries() if key in entry.keys]
    if not found:
        found = [entry for entry in _entries() if pieces <= entry.pieces]
        if len({entry.keys for entry in found}) > MOST_MEANT:  # "RTX" means none in particular
            return []
    if memory is None:
        return found
    fitting = [entry for entry in found if entry.device.memory == memory * GIB]
    if not fitting and found and found[0].device.kind == "cpu" and 0 < memory <= MOST_GIB:
        # People choose the memory of such a machine themselves.
        device, size = found[0].device, f"{memory}GB"
        name = f"{device.name.rpartition(' ')[0]} {size}"
        fitting = [replace(found[0], device=replace(device, name=name, memory=memory * GIB))]
    return fitting


def _nearest(text: str) -> list[str]:
    """Names that look like the text: those that share the most words with it, or letters."""
    key, pieces = _squeezed(_MEMORY.sub(" ", text)), _split(text)

    def likeness(entry: _Entry) -> tuple[int, float]:
        letters = difflib.SequenceMatcher(None, key, _squeezed(entry.device.name)).ratio()
        return len(pieces & entry.pieces), letters

    ranked = sorted(_entries(), key=likeness, reverse=True)
    return list(dict.fromkeys(entry.device.name for entry in ranked[:4]))


def _some(names: list[str]) -> list[str]:
    return names if len(names) <= 5 else [*names[:4], f"{len(names) - 4} more"]


def _split(text: str) -> frozenset[str]:
    return frozenset(piece for piece in _PIECES.findall(text.lower()) if piece not in _MAKERS)


def _squeezed(text: str) -> str:
    return "".join(piece for piece in _PIECES.findall(text.lower()) if piece not in _MAKERS)


@cache
def _entries() -> tuple[_Entry, ...]:
    listed = json.loads(Path(__file__).with_name("devices.json").read_text(encoding="utf-8"))
    entries = []
    for each in listed:
        names = (each["name"], *each.get("aliases", ()))
        keys = frozenset(key for name in names for key in _keys(name))
        pieces = frozenset().union(*(_split(name) for name in names))
        for memory in each["memory_gib"]:
            device = Device(
                name=f"{each['name']} {memory}GB",
                kind=each["kind"],
                memory=memory * GIB,
                bandwidth=round(each["gb_per_s"] * 1e9),
                flops={kind: round(value * 1e12) for kind, value in each.get("tflops", {}).items()},
                source=each["source"],
                note=each.get("note", ""),
            )
            entries.append(_Entry(device, keys, pieces))
    return tuple(entries)


def _keys(name: str) -> set[str]:
    """A name as it may be typed: whole, and without the words before its number."""
    whole = _squeezed(name)
    return {whole, re.sub(r"^(rtx|gtx|rx|arc|instinct|ryzen|core|xeon|epyc)", "", whole)}
