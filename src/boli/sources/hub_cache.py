"""The caches of the hubs' own libraries, read and pruned by their documented layout.

boli keeps no second copy of what a hub's library has cached, and needs no library to use what is there:

    Hugging Face    HF_HUB_CACHE/models--org--name/{refs/main, snapshots/COMMIT/file → blobs/HASH}
    ModelScope      MODELSCOPE_CACHE/models/org--name/snapshots/REVISION/file
    its old library MODELSCOPE_CACHE/[hub/]models/org/name, with dots in the name written `___`
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from boli.sources.hub_files import complete, find_model
from boli.sources.names import HubName, parse_hub

_COMMIT = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION = {"hf": "main", "ms": "master"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of a repository in a cache. `revision` is None for the hub's default branch."""

    hub: Literal["hf", "ms"]
    repo: str
    revision: str | None
    folder: Path


def root(hub: str) -> Path:
    """The cache folder of a hub's library, found as that library finds it."""
    if hub == "ms":
        return Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(cache)).expanduser()


def repo_folder(hub: str, repo: str) -> Path:
    """Where a repository lies in the cache of its hub; it need not exist."""
    flat = repo.replace("/", "--")
    return root(hub) / f"models--{flat}" if hub == "hf" else root(hub) / "models" / flat


def snapshot_folder(name: HubName) -> Path | None:
    """The cached files of the revision that `name` means, or None; they need not be complete."""
    folder = repo_folder(name.hub, name.repo)
    revision = name.revision or DEFAULT_REVISION[name.hub]
    if name.hub == "hf":
        commit = revision if _COMMIT.fullmatch(revision) else _read_ref(folder / "refs" / revision)
        found = folder / "snapshots" / commit if commit else None
        return found if found is not None and found.is_dir() else None
    candidates = [folder / "snapshots" / revision]
    if name.revision is None:
        candidates += _legacy_folders(name.repo)
    return next((path for path in candidates if path.is_dir()), None)


def _legacy_folders(repo: str) -> list[Path]:
    organisation, _, model = repo.partition("/")
    inner = Path("models", organisation, model.replace(".", "___"))
    return [root("ms") / inner, root("ms") / "hub" / inner]


def _read_ref(path: Path) -> str | None:
    if not path.is_file() or path.stat().st_size > 64:
        return None
    text = path.read_text(encoding="ascii", errors="replace").strip()
    return text if _COMMIT.fullmatch(text) else None


def cached(name: HubName, *, tokenizer: bool = True) -> Path | None:
    """The folder or `.gguf` that `name` means, if the cache has the whole of it.

    Another program may have fetched the weights alone. With `tokenizer=False` that is enough: it is the
    best that there is when the hub cannot be asked for the rest.
    """
    folder = snapshot_folder(name)
    return find_model(name, folder, tokenizer=tokenizer) if folder is not None else None


def snapshots(hub: Literal["hf", "ms"]) -> Iterator[Snapshot]:
    """Every revision of every model in a hub's cache. Names that are none of the hub's are passed over."""
    folder = root(hub) if hub == "hf" else root(hub) / "models"
    for entry in _folders(folder):
        flat = entry.name.removeprefix("models--") if hub == "hf" else entry.name
        name = parse_hub(hub, flat.replace("--", "/", 1))
        if name is not None and repo_folder(hub, name.repo) == entry:
            yield from _hf_revisions(name.repo, entry) if hub == "hf" else _ms_revisions(name.repo, entry)
    if hub == "ms":
        for old in (folder, root(hub) / "hub" / "models"):
            for entry in [inner for outer in _folders(old) for inner in _folders(outer)]:
                name = parse_hub(hub, f"{entry.parent.name}/{entry.name.replace('___', '.')}")
                if name is not None:
                    yield Snapshot(hub, name.repo, None, entry)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _hf_revisions(repo: str, folder: Path) -> Iterator[Snapshot]:
    named: dict[str, list[str]] = {}
    refs = folder / "refs"
    for path in sorted(refs.rglob("*")) if refs.is_dir() else []:
        if (commit := _read_ref(path)) is not None:
            named.setdefault(commit, []).append(path.relative_to(refs).as_posix())
    for snapshot in _folders(folder / "snapshots"):
        if _COMMIT.fullmatch(snapshot.name):
            for revision in named.get(snapshot.name, [snapshot.name]):
                yield Snapshot("hf", repo, None if revision == DEFAULT_REVISION["hf"] else revision, snapshot)


def _ms_revisions(repo: str, folder: Path) -> Iterator[Snapshot]:
    for snapshot in _folders(folder / "snapshots"):
        yield Snapshot(
            "ms", repo, None if snapshot.name == DEFAULT_REVISION["ms"] else snapshot.name, snapshot
        )


def models(snapshot: Snapshot) -> Iterator[tuple[HubName, Path]]:
    """The models in a snapshot: the folder itself if it is whole, and each GGUF."""
    if complete(snapshot.folder):
        yield HubName(snapshot.hub, snapshot.repo, snapshot.revision), snapshot.folder
    for path in sorted(snapshot.folder.rglob("*.gguf")):
        if path.is_file():
            file = path.relative_to(snapshot.folder).as_posix()
            yield HubName(snapshot.hub, snapshot.repo, snapshot.revision, file), path


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder, each counted once however many links lead to it."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(
        {(stat.st_dev, stat.st_ino): stat.st_size for stat in (file.stat() for file in files)}.values()
    )


def forget(name: HubName) -> int:
    """Remove what `name` means from the hub's cache.

    One GGUF if a file or a format is named, else one revision if one is named, else the whole repository.

    Returns:
        The bytes that are free now. 0 means that nothing was there.
    """
    folder = repo_folder(name.hub, name.repo)
    before = size(folder) if folder.is_dir() else 0
    if name.revision is None and not (name.file or name.quant):
        freed = before
        _remove_tree(folder)
        for legacy in _legacy_folders(name.repo) if name.hub == "ms" else []:
            freed += size(legacy) if legacy.is_dir() else 0
            _remove_tree(legacy)
        return freed
    snapshot = snapshot_folder(name)
    if snapshot is None:
        return 0
    if not snapshot.is_relative_to(folder):  # a folder of the older library has no snapshots
        folder, before = snapshot, size(snapshot)
    if name.file or name.quant:
        if (path := find_model(name, snapshot)) is None:
            return 0
        path.unlink()
    else:
        _remove_tree(snapshot)
    _drop_unused(folder)
    return before - (size(folder) if folder.is_dir() else 0)


def _remove_tree(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def _drop_unused(folder: Path) -> None:
    """Remove blobs that no snapshot points to, and the folder if no snapshot has a file left."""
    links = folder / "snapshots" if (folder / "snapshots").is_dir() else folder
    used = {path.resolve() for path in links.rglob("*") if path.is_file()}
    for blob in (folder / "blobs").glob("*") if (folder / "blobs").is_dir() else []:
        if blob.resolve() not in used:
            blob.unlink()
    if not used:
        _remove_tree(folder)
