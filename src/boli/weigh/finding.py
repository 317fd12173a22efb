"""What a user may call a model that is to be weighed, and where it is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from boli.errors import CorruptFile, ModelNotFound, UsageError
from boli.weigh import catalogue
from boli.weigh.configured import changed, check_names, from_config, from_shapes
from boli.weigh.model import Model

if TYPE_CHECKING:
    from boli.sources.names import HubName
    from boli.weigh.catalogue import Entry


def find(text: str, shapes: Mapping[str, object]) -> Model:
    """What `boli.weigh.model.find_model` does."""
    check_names(shapes)
    if not shapes:
        return _find(text, shapes)
    try:
        return _find(text, shapes)
    except CorruptFile as error:  # nothing is corrupt: the user gave a size that cannot be
        raise UsageError(
            error.message.removeprefix("config.json: "), cause=error.cause, remedy="give another size"
        ) from error


def _find(text: str, shapes: Mapping[str, object]) -> Model:
    if not text.strip():
        if not shapes:
            raise UsageError(
                "there is no model to weigh",
                remedy="name one, such as llama-3.1-8b, or give hidden_size and num_hidden_layers",
            )
        return from_shapes(shapes)
    # Before what reads folders and networks is imported: most questions are about known models.
    known = None if _is_path(text) else catalogue.find(text)
    if known is not None and known[0].alias != text:
        return _catalogued(known, shapes)
    from boli.sources import names  # noqa: PLC0415

    names.check_text(text)
    if known is not None:
        return _alias(known, shapes)
    prefix, _, rest = text.partition(":")
    if prefix == "hf":
        return _from_hub(names.require_hub("hf", rest), shapes)
    if prefix in ("ms", "pypi"):
        return _resolved(text, shapes)
    from boli.sources import local  # noqa: PLC0415

    if _is_path(text) or local.exists(Path(text)):
        return _from_path(_expanded(text), shapes)
    if (name := names.parse_hub("hf", text)) is not None:
        return _from_hub(name, shapes)
    raise catalogue.unknown(text)


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.endswith((".gguf", ".safetensors", ".json"))


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ModelNotFound(
            f"no home folder for {text}", cause=str(error), remedy="write the whole path"
        ) from error


def _catalogued(known: tuple[Entry, str], shapes: Mapping[str, object]) -> Model:
    entry, assumed = known
    notes = tuple(note for note in (assumed, entry.note) if note)
    name = f"{entry.name}, changed" if shapes else entry.name
    return from_config(changed(entry.config, shapes), name, "catalogue", notes=notes)


def _alias(known: tuple[Entry, str], shapes: Mapping[str, object]) -> Model:
    """The file that a short name of boli's own means; its model's configuration while it is not here."""
    from boli.sources.aliases import ALIASES  # noqa: PLC0415
    from boli.sources.storage import unpacked  # noqa: PLC0415

    entry, _ = known
    file = ALIASES[entry.alias].model
    path = unpacked(file)
    if path is not None and not shapes:
        return _from_path(path, {}, name=entry.alias)
    note = f"{entry.alias} means {file.filename}; this is the configuration that it was made from"
    return _catalogued((entry, note), shapes)


def _from_path(path: Path, shapes: Mapping[str, object], name: str = "") -> Model:
    from boli.weigh import files  # noqa: PLC0415  its readers need NumPy

    return files.open_model(path, shapes, name)


def _resolved(text: str, shapes: Mapping[str, object]) -> Model:
    """A model that is in a cache; for weighing alone none of these is downloaded."""
    from boli.sources import resolve  # noqa: PLC0415

    return _from_path(resolve(text, download=False).path, shapes, name=text)


def _from_hub(name: HubName, shapes: Mapping[str, object]) -> Model:
    if name.file is not None or name.quant is not None:
        return _resolved(str(name), shapes)
    if name.revision is None and (known := catalogue.find(name.repo)) is not None:
        return _catalogued(known, shapes)
    from boli.weigh import hub  # noqa: PLC0415

    config, source = hub.configuration(name)
    note = f"only the configuration was read, {source}; the files may be stored in another format"
    return from_config(changed(config, shapes), str(name), "hub", notes=(note,))
