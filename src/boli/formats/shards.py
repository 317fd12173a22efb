"""Which safetensors files of a folder belong together: one, or the shards that an index names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from boli.errors import CorruptFile, FormatError, ModelNotFound, UnsafeFile
from boli.formats.safetensors import SafetensorsFile, without_duplicates
from boli.formats.tensor_file import quoted

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_INDEX: Final = 64 << 20  # bytes; 100,000 tensors take about 10 MB
MAX_SHARDS: Final = 2048
_AGAIN: Final = "download the model again; what is complete is not fetched twice"


def open_safetensors(folder: Path) -> list[SafetensorsFile]:
    """Opens the safetensors files that hold a model.

    That is `model.safetensors`; where there is none, the files that `model.safetensors.index.json`
    names; where there is no index either, the only `*.safetensors` file. No tensor is in two files,
    and every tensor that the index names is in the file that it names.

    Returns:
        The open files, sorted by name. The caller closes them.

    Raises:
        ModelNotFound: if there is no such folder, or no safetensors file in it.
        UnsafeFile: if there are only pickles.
        CorruptFile: if a file or the index is damaged, missing, or does not fit the others.
        UnsupportedModel: for an unknown dtype.
        FormatError: if the folder or a file cannot be read.
    """
    names = _names(folder)
    found = [name for name in names if name.endswith(".safetensors")]
    if SINGLE in found:
        return [SafetensorsFile(folder / SINGLE)]
    if INDEX in names:
        return _open_shards(folder, read_index(folder / INDEX))
    if len(found) == 1:
        return [SafetensorsFile(folder / found[0])]
    if found:
        raise CorruptFile(
            f"{folder} holds {len(found)} safetensors files and no index",
            cause=f"{INDEX} says which of them belong together",
            remedy=f"download {INDEX} too, or leave only one file there",
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise UnsafeFile(
            f"{folder} holds weights only as pickles, such as {quoted(pickles[0])}",
            cause="loading a pickle runs whatever code its author put into it, so boli opens none",
            remedy="take a version of the model in safetensors or GGUF, or convert it where you trust it: "
            "load it with transformers and call `save_pretrained(folder)`, which writes safetensors",
        )
    raise ModelNotFound(
        f"{folder} holds no safetensors file", remedy="give a folder with *.safetensors, or a .gguf file"
    )


def read_index(path: Path) -> dict[str, str]:
    """Reads an index of shards: which file holds which tensor.

    Raises:
        CorruptFile: if it is not what an index looks like, or names files outside its own folder.
        FormatError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_INDEX + 1)
    except OSError as error:
        raise FormatError(f"cannot read {path}", cause=str(error)) from None
    if len(raw) > MAX_INDEX:
        raise CorruptFile(f"{path} is damaged: it is larger than {MAX_INDEX:,} bytes", remedy=_AGAIN)
    try:
        parsed = json.loads(raw.decode(), object_pairs_hook=without_duplicates)
    except RecursionError:
        raise CorruptFile(f"{path} is damaged: it is nested too deeply", remedy=_AGAIN) from None
    except ValueError as error:
        raise CorruptFile(f"{path} is not valid JSON", cause=str(error)[:200], remedy=_AGAIN) from None
    places = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(places, dict) or not places:
        raise CorruptFile(f"{path} is damaged: it has no weight_map", remedy=_AGAIN)
    for name, shard in places.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise CorruptFile(
                f"{path} is damaged: it places tensor {quoted(name)} in {quoted(str(shard))}",
                cause="that is not the plain name of a safetensors file in the same folder",
                remedy="do not use this copy of the model; download it from its publisher",
            )
    return places


def _is_plain(name: str) -> bool:
    """Whether a name can only mean a file of the folder itself."""
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and name.isprintable()
        and not any(each in name for each in "/\\:")
        and len(name) <= 255
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(f"no such folder: {folder}") from None
    except OSError as error:
        raise FormatError(f"cannot read the folder {folder}", cause=str(error)) from None


def _open_shards(folder: Path, places: Mapping[str, str]) -> list[SafetensorsFile]:
    shards = sorted(set(places.values()))
    if len(shards) > MAX_SHARDS:
        raise CorruptFile(
            f"{folder / INDEX} is damaged: it names {len(shards):,} files",
            cause=f"at most {MAX_SHARDS:,} are allowed",
            remedy=_AGAIN,
        )
    # Path.is_file() would let PermissionError through.
    missing = [shard for shard in shards if not os.path.isfile(folder / shard)]  # noqa: PTH113
    if missing:
        raise CorruptFile(
            f"{folder} lacks {len(missing)} of the model's {len(shards)} files, such as {missing[0]}",
            cause="the download was not complete",
            remedy=_AGAIN,
        )
    files: dict[str, SafetensorsFile] = {}
    try:
        for shard in shards:
            files[shard] = SafetensorsFile(folder / shard)
        _check_places(folder, files, places)
    except BaseException:
        for file in files.values():
            file.close()
        raise
    return list(files.values())


def _check_places(folder: Path, files: Mapping[str, SafetensorsFile], places: Mapping[str, str]) -> None:
    """The index and the files agree on where each tensor is, and no tensor is in two files."""
    for name, shard in places.items():
        if name not in files[shard].tensors:
            raise CorruptFile(
                f"{folder / shard} lacks the tensor {quoted(name)}, which the index promises",
                cause="the files are of different versions of the model",
                remedy=_AGAIN,
            )
    owner: dict[str, str] = {}
    for shard, file in files.items():
        for name in file.tensors:
            if owner.setdefault(name, shard) != shard:
                raise CorruptFile(
                    f"{folder}: tensor {quoted(name)} is both in {owner[name]} and in {shard}",
                    cause="the files are of different versions of the model",
                    remedy=_AGAIN,
                )
