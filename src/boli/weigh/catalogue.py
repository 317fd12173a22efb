"""The configurations that boli knows by name, without a network.

They are in `configurations/*.json`: for each model the fields of its published config.json that fix its
shapes, where `like` names another model whose fields it shares. Names are compared without regard to case,
spaces, hyphens and underscores; endings such as `-instruct` mean the model itself, whose shapes are the same.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boli.errors import ModelNotFound

_FOLDER: Final = Path(__file__).parent / "configurations"
_SEPARATORS: Final = re.compile(r"[\s_-]+")
# A tuned model has the shapes of the one that it was tuned from.
_TUNED: Final = re.compile(r"[\s_-](instruct|chat|it|base|pt|hf|preview|v0\.1|gguf)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        name: Its name, such as `llama-3.1-8b`.
        hub: Repositories with this configuration.
        also: Other names.
        alias: boli's own short name for one file of this model, or "".
        config: The fields of its config.json.
        note: What is to be known about it, or "".
    """

    name: str
    hub: tuple[str, ...]
    also: tuple[str, ...]
    alias: str
    config: Mapping[str, Any]
    note: str


def names() -> list[str]:
    """All names, sorted."""
    return sorted(_entries())


def find(text: str) -> tuple[Entry, str] | None:
    """The entry that a name or `org/name` means, and what was assumed about the name; or None."""
    known = _index()
    entry = known.get(_plain(text))
    if entry is not None:
        return entry, ""
    shorter = text
    while (cut := _TUNED.sub("", shorter)) != shorter:
        shorter = cut
        entry = known.get(_plain(shorter))
        if entry is not None:
            return entry, f"{text} is taken to have the shapes of {entry.name}, as tuned models have"
    return None


def nearest(text: str, count: int = 4) -> list[str]:
    """The names most like a text, the most alike first."""
    known = _index()
    plain = _plain(text.rpartition("/")[2])
    close = difflib.get_close_matches(plain, known, n=3 * count, cutoff=0.6)
    close += [name for name in sorted(known) if plain and name.startswith(plain)]
    return list(dict.fromkeys(known[name].name for name in close))[:count]


def unknown(text: str) -> ModelNotFound:
    """The error for a name that nothing answers to."""
    close = nearest(text)
    return ModelNotFound(
        f"no model {text[:100]!r}",
        cause=f"boli knows {len(_entries())} configurations by name, and there is no such file or folder",
        remedy=f"did you mean {' or '.join(close)}?"
        if close
        else "give a name such as llama-3.1-8b, a config.json, a folder, a .gguf or .safetensors file, "
        "hf:org/name, or shapes",
    )


def _plain(text: str) -> str:
    return _SEPARATORS.sub("", text.lower())


@functools.cache
def _entries() -> Mapping[str, Entry]:
    raw: dict[str, Mapping[str, Any]] = {}
    for path in sorted(_FOLDER.glob("*.json")):
        raw.update(json.loads(path.read_bytes()))
    return {name: _entry(name, raw) for name in raw}


def _entry(name: str, raw: Mapping[str, Mapping[str, Any]]) -> Entry:
    own = raw[name]
    config: dict[str, Any] = dict(own.get("config", {}))
    note, like = own.get("note", ""), own.get("like")
    while like:
        config = {**raw[like].get("config", {}), **config}
        note = note or raw[like].get("note", "")
        like = raw[like].get("like")
    return Entry(
        name, tuple(own.get("hub", ())), tuple(own.get("also", ())), own.get("alias", ""), config, note
    )


@functools.cache
def _index() -> Mapping[str, Entry]:
    """Entries by all their names, without case and separators."""
    entries = _entries()
    index = {}
    for entry in entries.values():
        for name in (
            entry.alias or entry.name,
            *entry.also,
            *entry.hub,
            *(each.rpartition("/")[2] for each in entry.hub),
        ):
            index[_plain(name)] = entry
    index.update({_plain(name): entry for name, entry in entries.items()})
    return index
