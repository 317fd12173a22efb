"""Models from ModelScope, fetched by modelscope-hub into its own cache.

ModelScope's cache has one folder a branch, not one a commit. So one listing pins the content: every file
must have the size and the SHA-256 that this listing gave, whatever the branch does in the meantime. Weights
come last, so that a folder with whole weights is a whole model.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from boli.errors import BoliError, IntegrityError, MissingExtra, ModelNotFound, NetworkError, install
from boli.sources import hub_cache, storage
from boli.sources.hub_files import RemoteFile, choose_gguf, select

if TYPE_CHECKING:
    from boli.sources.names import HubName
    from boli.sources.progress import Progress

_CONNECT_SECONDS = 5.0
# The library reads its settings once, when it is imported. By its own defaults it takes a minute and a half
# to say that there is no network; whoever sets these variables themselves is obeyed.
_PATIENCE = {"MODELSCOPE_API_MAX_RETRIES": "1", "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2"}


def fetch(name: HubName, progress: Progress) -> Path:
    """Download what `name` means into the ModelScope cache; what is there already is not fetched again.

    Returns:
        The snapshot's folder, or the `.gguf` in it.

    Raises:
        MissingExtra: modelscope-hub is not installed.
        ModelNotFound, UnsafeFile, UsageError, UnsupportedModel: By what the repository holds.
        NetworkError: No connection, or a refusal (private models).
        IntegrityError: A file is not what the listing promised; nothing of it was kept.
        StorageError: No room, or no right to write.
    """
    library = _library(name)
    api = library.HubApi(library.HubConfig())
    with _explained(name, api.legacy.endpoint):
        _check_reachable(api.legacy.endpoint)
        listed = api.list_repo_files(name.repo, "model", revision=name.revision)
    files = select(
        name, (RemoteFile(f.path, f.size or None, f.sha256 or None) for f in listed if not f.is_dir)
    )
    cache = hub_cache.root("ms")
    total = sum(file.nbytes or 0 for file in files)
    with storage.storage_errors(cache):
        storage.check_room(cache, total)
        progress.start(str(name), total)
        try:
            with _explained(name, api.legacy.endpoint), _no_bars():
                paths = [_fetch_file(api, name, file, cache, progress) for file in files]
        finally:
            progress.finish()
    if files[0].path.endswith(".gguf"):
        wanted = choose_gguf(name, [file.path for file in files], {})
        return next(path for path, file in zip(paths, files, strict=True) if file.path == wanted)
    return paths[0].parent


def _library(name: HubName) -> Any:
    before = {key: os.environ.get(key) for key in _PATIENCE}
    for key, value in _PATIENCE.items():
        os.environ.setdefault(key, value)
    try:
        import modelscope_hub  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra(
            f"{name} comes from ModelScope, and modelscope-hub is not installed",
            remedy=install("hub"),
        ) from error
    finally:
        for key, old in before.items():
            if old is None:
                del os.environ[key]
    return modelscope_hub


def _fetch_file(api: Any, name: HubName, file: RemoteFile, cache: Path, progress: Progress) -> Path:
    path: Path = api.downloader.download_file(
        name.repo,
        "model",
        file.path,
        revision=name.revision,
        cache_dir=cache,
        expected_sha256=file.sha256,
        file_size=file.nbytes,
        progress_callbacks=[_callback_for(progress)],
    )
    if not path.is_relative_to(cache):
        raise IntegrityError(
            f"{file.path} was put outside the cache", cause=str(path), remedy="remove that file"
        )
    return path


def _callback_for(progress: Progress) -> type:
    class Callback:
        def __init__(self, filename: str, file_size: int) -> None:
            """The library makes one for each file; the whole model has one bar."""

        def update(self, size: int) -> None:
            progress.advance(size)

        def end(self) -> None:
            """The bar ends elsewhere."""

    return Callback


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library from drawing its own bars over ours.

    It has no setting for it: tqdm is called with the bar on. So its name for tqdm is replaced meanwhile.
    """
    from modelscope_hub import _download  # noqa: PLC0415  after `_library`

    original = getattr(_download, "tqdm", None)
    if original is None:  # another version, that draws by other means
        yield
        return

    def silent(*args: Any, **keywords: Any) -> Any:
        return original(*args, **{**keywords, "disable": True})

    _download.tqdm = silent
    try:
        yield
    finally:
        _download.tqdm = original


def _check_reachable(endpoint: str) -> None:
    """Fail in seconds if nothing answers at all. With a proxy only the proxy knows: left to the library."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    socket.create_connection(
        (host, parts.port or (443 if parts.scheme == "https" else 80)), _CONNECT_SECONDS
    ).close()


@contextmanager
def _explained(name: HubName, endpoint: str) -> Iterator[None]:
    """The library's errors come out as ours."""
    try:
        yield
    except BoliError:
        raise
    except Exception as error:
        raise _explain(name, endpoint, error) from error


def _explain(name: HubName, endpoint: str, error: Exception) -> BoliError:
    from modelscope_hub import errors  # noqa: PLC0415  after `_library`

    if (full := storage.explain(error, hub_cache.root("ms"))) is not None:
        return full
    said = " ".join(str(getattr(error, "message", error)).split())[:300]
    if isinstance(error, errors.FileIntegrityError):
        return IntegrityError(
            f"a file of {name} is not what {endpoint} promised",
            cause=f"{said}; nothing of it was kept",
            remedy="try again later; the branch may just be changing",
        )
    if isinstance(error, (errors.AuthenticationError, errors.PermissionDeniedError)):
        return NetworkError(
            f"{endpoint} refused to give {name}",
            cause=said,
            remedy="set MODELSCOPE_API_TOKEN to a token of an account that may see it",
        )
    if isinstance(error, errors.NotExistError):
        what = f"{name.repo} at revision {name.revision}" if name.revision else name.repo
        return ModelNotFound(
            f"{endpoint} has no model {what}",
            cause=said,
            remedy="check the spelling (ms:org/name[@revision]); for private models set MODELSCOPE_API_TOKEN",
        )
    return NetworkError(
        f"could not fetch {name} from {endpoint}",
        cause=f"{type(error).__name__}: {said}",
        remedy="check the network and HTTPS_PROXY, or set MODELSCOPE_ENDPOINT",
    )
