"""Files of models, read by their headers alone: what is in them and in which number format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from boli.blueprint.weights import Blueprint, Weight
from boli.errors import CorruptFile, ModelNotFound, UsageError
from boli.formats.folder import only_gguf, read_config
from boli.formats.safetensors import SafetensorsFile
from boli.formats.shards import open_safetensors
from boli.formats.tensor_file import TensorFile, TensorInfo
from boli.weigh.configured import changed, from_config
from boli.weigh.listed import from_tensors
from boli.weigh.metadata import from_metadata
from boli.weigh.model import Model

# What may stand before a weight's name in one checkpoint and not in another of the same family.
_PREFIXES: Final = (
    "model.", "transformer.", "language_model.", "model.language_model.", "language_model.model.", "bert.",
    "roberta.",
)  # fmt: skip
_EXPERT: Final = re.compile(r"(.*\bexperts\.)(\d+)\.(.*)")


def open_model(path: Path, shapes: Mapping[str, object], name: str = "") -> Model:
    """The model of a folder, a `config.json`, a `.gguf` or a `.safetensors`.

    Args:
        path: Where it is.
        shapes: Sizes to change; only a configuration can be changed.
        name: What to call it; the file's name if empty.

    Raises:
        ModelNotFound: Nothing is there, or nothing that could be a model.
        CorruptFile: It is damaged, or the configuration contradicts the files.
        UnsupportedModel: The architecture is unknown.
        UsageError: Shapes were given for a file of weights.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() lets PermissionError through
        return _open_folder(path, shapes, name or path.name)
    if path.suffix == ".json":
        if not path.exists():
            raise ModelNotFound(f"no such file: {path}")
        return from_config(changed(read_config(path), shapes), name or _named(path), "config.json")
    if shapes:
        raise UsageError(
            f"the shapes of {path} cannot be changed",
            cause="it holds weights, and they have the shapes that they have",
            remedy="give the model's config.json, or its name, to change shapes",
        )
    if path.suffix == ".safetensors":
        with SafetensorsFile(path) as file:
            model = from_tensors(list(file.tensors.values()), name or path.stem, "safetensors")
            return replace(model, file_bytes=_size(path))
    return replace(from_metadata(path, name or path.stem), file_bytes=_size(path))


def _named(path: Path) -> str:
    return path.absolute().parent.name if path.name == "config.json" else path.stem


def _size(path: Path) -> int:
    return path.stat().st_size


def _open_folder(folder: Path, shapes: Mapping[str, object], name: str) -> Model:
    config = folder / "config.json"
    weights = any(entry.suffix == ".safetensors" for entry in folder.iterdir())
    if not config.is_file():
        if not weights:
            return open_model(only_gguf(folder), shapes, name)
        files: Sequence[TensorFile] = open_safetensors(folder)
        try:
            return replace(from_tensors(_tensors(files), name, "folder"), file_bytes=_sizes(files))
        finally:
            _close(files)
    model = from_config(changed(read_config(config), shapes), name, "folder")
    if not weights or shapes:
        return model
    files = open_safetensors(folder)
    try:
        stored, notes = match(model.blueprint, _tensors(files))
        return replace(model, stored=stored, notes=(*model.notes, *notes), file_bytes=_sizes(files))
    finally:
        _close(files)


def _tensors(files: Iterable[TensorFile]) -> list[TensorInfo]:
    return [info for file in files for info in file.tensors.values()]


def _sizes(files: Iterable[TensorFile]) -> int:
    return sum(_size(file.path) for file in files)


def _close(files: Iterable[TensorFile]) -> None:
    for file in files:
        file.close()


def match(blueprint: Blueprint, tensors: Sequence[TensorInfo]) -> tuple[dict[str, str], list[str]]:
    """The number format of each weight, and what does not fit.

    Args:
        blueprint: What the configuration says.
        tensors: What the files hold.

    Raises:
        CorruptFile: A tensor has another shape than the configuration says.
    """
    there = {info.name: info for info in tensors}
    there |= _stacked(tensors)
    stored: dict[str, str] = {}
    used: set[str] = set()
    missing = []
    for weight in (*blueprint.weights, *blueprint.prediction):
        info = next((there[name] for name in _names(weight) if name in there), None)
        if info is None:
            if not weight.tied_to:
                missing.append(weight.name)
            continue
        used.add(info.name)
        if sorted(info.shape) != sorted(weight.shape):
            raise CorruptFile(
                f"the tensor {info.name[:80]} has shape {list(info.shape)}",
                cause=f"the configuration says {list(weight.shape)}",
                remedy="check that config.json belongs to these files",
            )
        if not weight.tied_to:
            stored[weight.name] = info.format.name
    notes = []
    if missing:
        notes.append(
            f"{len(missing)} weights of the configuration are not in the files, such as {missing[0]}: "
            "their format is that of the configuration"
        )
    # A tensor of one expert is in the files by its own name, and is used under the name of all experts.
    extra = [info for info in tensors if info.name not in used and _without_number(info.name) not in used]
    if extra:
        notes.append(
            f"the files hold {len(extra)} more tensors, {sum(info.nbytes for info in extra):,} bytes, "
            f"which are not counted, such as {extra[0].name[:80]}"
        )
    return stored, notes


def _names(weight: Weight) -> Iterable[str]:
    """What a weight may be called in a file."""
    own = weight.safetensors.names if not weight.tied_to else (weight.name,)
    yield from own
    for name in own:
        for prefix in _PREFIXES:
            yield prefix + name
            if name.startswith(prefix):
                yield name.removeprefix(prefix)


def _without_number(name: str) -> str:
    found = _EXPERT.fullmatch(name)
    return found[1] + found[3] if found else name


def _stacked(tensors: Sequence[TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of single experts as one of all experts, if all are there and alike."""
    each: dict[str, dict[int, TensorInfo]] = {}
    for info in tensors:
        found = _EXPERT.fullmatch(info.name)
        if found and len(found[2]) < 6:
            each.setdefault(found[1] + found[3], {})[int(found[2])] = info
    stacked: dict[str, Any] = {}
    for name, experts in each.items():
        first = experts.get(0)
        alike = first is not None and all(
            info.shape == first.shape and info.format is first.format for info in experts.values()
        )
        if first is not None and alike and set(experts) == set(range(len(experts))):
            shape = (len(experts), *first.shape)
            stacked[name] = TensorInfo(name, first.format, shape, first.offset, first.nbytes * len(experts))
    return stacked
