"""Models from the Hugging Face hub, fetched by its own library into its own cache.

The library brings the transfer (mirrors by `HF_ENDPOINT`, `HF_TOKEN`, xet, proxies) and the layout of the
cache. boli adds what it does not do: it lists the files first, takes only those it needs, never a pickle,
pins one commit for all of them, checks room and every hash, and moves the branch's ref only when all files
are there, so that a download that was cut short is never taken for a whole model.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import HfApi, constants, errors, get_session, hf_hub_download

from boli.errors import BoliError, IntegrityError, ModelNotFound, NetworkError, SourceError
from boli.sources import hub_cache, storage
from boli.sources.hub_files import RemoteFile, choose_gguf, select

if TYPE_CHECKING:
    from types import TracebackType

    from boli.sources.names import HubName
    from boli.sources.progress import Progress

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIST_SECONDS = 10.0
_GGUF = ".gguf"
T = TypeVar("T")


def fetch(name: HubName, progress: Progress) -> Path:
    """Download what `name` means into the Hugging Face cache; what is there already is not fetched again.

    Returns:
        The snapshot's folder, or the `.gguf` in it.

    Raises:
        ModelNotFound, UnsafeFile, UsageError, UnsupportedModel: By what the repository holds.
        NetworkError: No connection, offline mode, or a refusal (gated and private models).
        IntegrityError: A file is not what the hub's list promised; it was removed.
        StorageError: No room, or no right to write.
    """
    commit, files = _list(name)
    folder = hub_cache.repo_folder("hf", name.repo)
    snapshot = folder / "snapshots" / commit
    missing = [file for file in files if not (snapshot / file.path).is_file()]
    total = _bytes_to_come(missing, folder / "blobs")
    with storage.storage_errors(folder):
        storage.check_room(folder, total or 0)
        progress.start(str(name), total)
        try:
            for file in missing:
                _fetch_file(name, commit, file, progress)
        finally:
            progress.finish()
        if name.revision != commit:
            _write_ref(folder, name.revision or hub_cache.DEFAULT_REVISION["hf"], commit)
    if files[0].path.endswith(_GGUF):
        return snapshot / choose_gguf(name, [file.path for file in files], {})
    return snapshot


def _bytes_to_come(files: list[RemoteFile], blobs: Path) -> int | None:
    """The cache keeps equal files once, under their hash, so some need not come again."""
    sizes: dict[str, int | None] = {}
    for file in files:
        blob = file.sha256 or file.git_sha1
        if blob is None or not (blobs / blob).exists():
            sizes[blob or file.path] = file.nbytes
    return None if None in sizes.values() else sum(size for size in sizes.values() if size is not None)


def _list(name: HubName) -> tuple[str, list[RemoteFile]]:
    """The commit that the revision means now, and the files to fetch of it."""

    def ask() -> Any:
        return HfApi(library_name="boli").model_info(
            name.repo, revision=name.revision, files_metadata=True, timeout=_LIST_SECONDS
        )

    info = explained(name, ask)
    commit = info.sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise IntegrityError(
            f"the hub names no commit for {name}", remedy="check HF_ENDPOINT: it may be no such hub"
        )
    listing = []
    for entry in info.siblings or []:
        lfs = entry.lfs
        size = lfs.size if lfs is not None and lfs.size is not None else entry.size
        digest = lfs.sha256 if lfs is not None else None
        listing.append(
            RemoteFile(str(entry.rfilename), size, digest, None if lfs is not None else entry.blob_id)
        )
    return commit, select(name, listing)


def _fetch_file(name: HubName, commit: str, file: RemoteFile, progress: Progress) -> None:
    folder = hub_cache.repo_folder("hf", name.repo)

    def download() -> Path:
        bar = bar_for(progress, file.nbytes)
        return Path(
            hf_hub_download(name.repo, file.path, revision=commit, library_name="boli", tqdm_class=bar)
        )

    watch_names()
    path = explained(name, download)
    expected = folder / "snapshots" / commit / file.path
    if Path(os.path.abspath(path)) != Path(os.path.abspath(expected)):  # noqa: PTH100 - links are the layout
        raise SourceError(
            f"{name} was put where it was not expected", cause=str(path), remedy="set HF_HUB_CACHE"
        )
    _check(file, path, folder)


def watch_names() -> None:
    """The library makes file names of the ETag and the commit that a server sends: look at them first."""
    session = get_session()
    hooks = session.event_hooks
    if _refuse_odd_names not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_odd_names]}


def _refuse_odd_names(response: Any) -> None:
    for header in ("ETag", "X-Linked-ETag", "X-Repo-Commit"):
        value = response.headers.get(header, "").removeprefix("W/")
        if response.request.method == "HEAD" and (".." in value or "/" in value or "\\" in value):
            raise IntegrityError(
                f"the hub sent a {header} that leads out of the cache",
                cause=repr(value[:100]),
                remedy="do not use this hub: check HF_ENDPOINT",
            )


def _check(file: RemoteFile, path: Path, folder: Path) -> None:
    """Compare a file that has come with the hub's list; remove it from the cache if it differs."""
    try:
        _compare(file, path)
    except BaseException:
        blob = path.resolve()
        path.unlink()
        if blob.is_relative_to((folder / "blobs").resolve()):
            blob.unlink(missing_ok=True)
        raise


def _compare(file: RemoteFile, path: Path) -> None:
    nbytes = path.stat().st_size
    if file.nbytes is not None and nbytes != file.nbytes:
        raise IntegrityError(
            f"{file.path} is not what the hub promised",
            cause=f"it has {nbytes} bytes, listed were {file.nbytes}; it was removed",
            remedy="try again; if it happens again, use another mirror (HF_ENDPOINT)",
        )
    git = hashlib.sha1(b"blob %d\0" % nbytes, usedforsecurity=False)  # git's own name for the content
    digest = hashlib.sha256() if file.sha256 else git
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if (promised := file.sha256 or file.git_sha1) is not None:
        storage.check_digest(file.path, promised, digest.hexdigest())


def _write_ref(folder: Path, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag is, in one step, as the library itself does."""
    path = folder / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="ascii") as sink:
        sink.write(commit)
    Path(sink.name).replace(path)


def explained(name: HubName, action: Callable[[], T]) -> T:
    """Run something of the library; its errors come out as ours."""
    try:
        return action()
    except BoliError:
        raise
    except Exception as error:
        raise _explain(name, error) from error


def _explain(name: HubName, error: Exception) -> BoliError:
    where = constants.ENDPOINT
    chain = list(storage.causes(error))
    if (full := storage.explain(error, hub_cache.root("hf"))) is not None:
        return full
    said = " ".join(str(error).split())[:300]
    if any(isinstance(link, errors.OfflineModeIsEnabled) for link in chain):
        return NetworkError(
            f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
            remedy="unset HF_HUB_OFFLINE, or fetch the model once with a network",
        )
    if any(isinstance(link, errors.GatedRepoError) for link in chain):
        return NetworkError(
            f"{name} is gated: its owner wants you to accept terms first",
            cause=said,
            remedy=f"accept them at {where}/{name.repo}, then set HF_TOKEN to a token of that account",
        )
    if any(isinstance(link, errors.RepositoryNotFoundError) for link in chain):
        return ModelNotFound(
            f"{where} has no model {name.repo}, or does not show it to you",
            cause=said,
            remedy="check the spelling; for a private model set HF_TOKEN",
        )
    if any(isinstance(link, errors.RevisionNotFoundError) for link in chain):
        return ModelNotFound(
            f"{name.repo} has no revision {name.revision}", cause=said, remedy="check the spelling"
        )
    status = next(
        (link.response.status_code for link in chain if isinstance(link, errors.HfHubHTTPError)), None
    )
    if status in (401, 403):
        return NetworkError(
            f"{where} refused to give {name}",
            cause=said,
            remedy="check HF_TOKEN, and the terms on the model's page",
        )
    if "Consistency check failed" in said:
        return IntegrityError(f"a file of {name} came with a wrong length", cause=said, remedy="try again")
    return NetworkError(
        f"could not fetch {name} from {where}",
        cause=f"{type(error).__name__}: {said}",
        remedy="check the network and HTTPS_PROXY, or set HF_ENDPOINT to a mirror that you can reach",
    )


def bar_for(progress: Progress, limit: int | None) -> type:
    """A class that the library takes for tqdm; it tells `progress`, and stops what exceeds `limit` bytes."""

    class Bar:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            self._bytes = 0
            self.update(initial)

        def update(self, n: float | None = 1) -> None:
            self._bytes += int(n or 0)
            if limit is not None and self._bytes > limit:  # such as a small file that unpacks to a large one
                raise IntegrityError(
                    "a file is longer than the hub promised",
                    cause=f"more than {limit} bytes came; nothing of it was kept",
                    remedy="try again; if it happens again, use another mirror (HF_ENDPOINT)",
                )
            progress.advance(int(n or 0))

        def close(self) -> None:
            """The whole model has one bar, and it ends elsewhere."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            self.close()

    return Bar
