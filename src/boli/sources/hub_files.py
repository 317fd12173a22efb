"""Which files of a hub's repository boli needs, and whether a folder has them all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from boli.errors import IntegrityError, ModelNotFound, UnsupportedModel, UsageError
from boli.sources import local
from boli.sources.names import HubName, is_safe_path
from boli.sources.storage import human

INDEX = "model.safetensors.index.json"
_MAX_FILES = 20_000
_MAX_INDEX_BYTES = 64 * 2**20
_SMALL = re.compile(
    r"config\.json|generation_config\.json|tokenizer[\w.-]*\.json|special_tokens_map\.json|chat_template[\w.-]*\.(?:json|jinja)",
    re.ASCII,
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors", re.ASCII)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.ASCII)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    r"""A file that a hub lists.

    Attributes:
        path: Its path in the repository.
        nbytes: Its size, or None if the hub does not say.
        sha256: Hex digest of its content, or None.
        git_sha1: Its git object id (SHA-1 of `blob SIZE\0` and the content), or None.
    """

    path: str
    nbytes: int | None
    sha256: str | None = None
    git_sha1: str | None = None


def select(name: HubName, listing: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The files to fetch for `name`, configuration first.

    Raises:
        IntegrityError: The listing has a path that leads out of the repository, or is absurdly long.
        UnsafeFile: The weights are there only as pickles.
        UsageError: Several GGUF models and none chosen.
        UnsupportedModel: The chosen GGUF is split into several files.
        ModelNotFound: Nothing there that boli can read, or not the chosen one.
    """
    files = _checked(name, listing)
    weights = _safetensors(files)
    if not (name.file or name.quant) and weights and "config.json" in files:
        return [files[path] for path in sorted(files) if _SMALL.fullmatch(path)] + [
            files[path] for path in weights
        ]
    ggufs = [path for path in sorted(files) if path.endswith(".gguf") and "mmproj" not in path]
    if name.file or name.quant or ggufs:
        return [files[choose_gguf(name, ggufs, {path: file.nbytes for path, file in files.items()})]]
    pickles = [path for path in files if path.endswith(local.PICKLES)]
    if pickles and not weights:
        raise local.only_pickles(str(name), sorted(pickles))
    what = "config.json" if weights else "*.safetensors or *.gguf"
    raise ModelNotFound(f"{name} holds no model that boli can read", cause=f"the repository has no {what}")


def choose_gguf(name: HubName, ggufs: Sequence[str], sizes: dict[str, int | None]) -> str:
    """The one GGUF that `name` means, out of the paths `ggufs`; see `select` for what is raised."""
    found = [path for path in ggufs if _matches(name, path)]
    if not found:
        raise ModelNotFound(
            f"{name} is not in the repository",
            remedy=f"it has: {_choices(name, ggufs, sizes)}" if ggufs else "it has no GGUF",
        )
    if all(_SPLIT.search(path) for path in found):
        raise UnsupportedModel(
            f"{name} is split into {len(found)} files",
            cause="boli reads a GGUF only as one file",
            remedy="choose a smaller format, or join the parts with the tool that split them",
        )
    found = [path for path in found if not _SPLIT.search(path)]
    if len(found) > 1:
        raise UsageError(
            f"{name} could be {len(found)} GGUF models", remedy=f"choose: {_choices(name, found, sizes)}"
        )
    return found[0]


def _matches(name: HubName, path: str) -> bool:
    if name.file is not None:
        return path == name.file
    if name.quant is not None:
        return re.search(rf"(?:^|[-._/]){re.escape(name.quant)}(?:[-._]|$)", path, re.IGNORECASE) is not None
    return True


def _choices(name: HubName, ggufs: Sequence[str], sizes: dict[str, int | None]) -> str:
    shown = []
    for path in ggufs[:12]:
        size = sizes.get(path)
        shown.append(f"{name.hub}:{name.repo}/{path}" + (f" ({human(size)})" if size else ""))
    return ", ".join(shown) + (", …" if len(ggufs) > 12 else "")


def _checked(name: HubName, listing: Iterable[RemoteFile]) -> dict[str, RemoteFile]:
    files: dict[str, RemoteFile] = {}
    for file in listing:
        bad_size = file.nbytes is not None and not 0 <= file.nbytes < 2**50
        leads_out = (
            ".." in re.split(r"[/\\]", file.path) or file.path.startswith(("/", "\\")) or "\0" in file.path
        )
        if leads_out or bad_size or len(files) >= _MAX_FILES:
            raise IntegrityError(
                f"the list of files of {name} is not to be trusted",
                cause=f"it has {file.path!r}" + (f" of {file.nbytes} bytes" if bad_size else "")
                if leads_out or bad_size
                else f"it has more than {_MAX_FILES} files",
                remedy="do not use this repository, or tell its owner",
            )
        if is_safe_path(file.path):  # odd but harmless names are left alone: boli does not need them
            files[file.path] = file
    return files


def _safetensors(files: dict[str, RemoteFile] | dict[str, Path]) -> list[str]:
    """Index and shards if there is an index; else `model.safetensors`; else every safetensors at the top."""
    if INDEX in files:
        return [INDEX, *sorted(path for path in files if _SHARD.fullmatch(path))]
    if "model.safetensors" in files:
        return ["model.safetensors"]
    return sorted(path for path in files if path.endswith(".safetensors") and "/" not in path)


def complete(folder: Path, *, tokenizer: bool = True) -> bool:
    """True if a folder has a configuration, all weights that its index names and, if asked, a tokenizer."""
    files = {entry.name: entry for entry in folder.iterdir() if entry.is_file()}
    if "config.json" not in files or (tokenizer and not any(known in files for known in _TOKENIZERS)):
        return False
    if INDEX not in files:
        return bool(_safetensors(files))
    if files[INDEX].stat().st_size > _MAX_INDEX_BYTES:
        return False
    try:
        index = json.loads(files[INDEX].read_bytes())
    except (ValueError, RecursionError):
        return False
    shards = index.get("weight_map") if isinstance(index, dict) else None
    return (
        isinstance(shards, dict)
        and bool(shards)
        and all(isinstance(shard, str) and shard in files for shard in shards.values())
    )


def find_model(name: HubName, folder: Path, *, tokenizer: bool = True) -> Path | None:
    """What `name` means in a folder of the hub's cache, or None if it is not there as a whole."""
    if not (name.file or name.quant) and complete(folder, tokenizer=tokenizer):
        return folder
    ggufs = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.gguf")) if path.is_file()]
    found = [
        path for path in ggufs if "mmproj" not in path and not _SPLIT.search(path) and _matches(name, path)
    ]
    return folder / found[0] if len(found) == 1 else None
