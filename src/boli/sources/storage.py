"""boli's own folder of models: where it is, who may write to it now, and how a file gets its final name.

Rule of the folder: a file under its final name is whole and checked. Everything else lives in `.staging`,
one folder a model, which belongs to whoever holds the model's lock; so a leftover of a process that was
killed is found and cleared by the next one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from boli.errors import IntegrityError, StorageError
from boli.machine import cache_dir

if TYPE_CHECKING:
    from boli.sources.aliases import PypiModel
    from boli.sources.progress import Progress

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_MARGIN_BYTES = 16 * 2**20  # so that a download never takes the last byte of a disk


def models_folder() -> Path:
    """`models` in boli's own cache folder (`$XDG_CACHE_HOME/boli/models`); it need not exist."""
    return cache_dir() / "models"


def unpacked(model: PypiModel) -> Path | None:
    """The file of `model` in boli's folder, if it is there and has its size."""
    path = models_folder() / model.cache_key
    if not path.is_file() or (model.nbytes is not None and path.stat().st_size != model.nbytes):
        return None
    return path


def human(nbytes: int) -> str:
    """98362432 → '98.4 MB' (decimal units, as disks and hubs count)."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk below `folder` into `StorageError`; other `OSError`s pass."""
    try:
        yield
    except OSError as error:
        if (explained := explain(error, folder)) is not None:
            raise explained from error
        raise


def explain(error: BaseException, folder: Path) -> StorageError | None:
    """The `StorageError` that an error, or what it was raised from, means; None if it means another thing."""
    for link in causes(error):
        if not isinstance(link, OSError):
            continue
        if link.errno in _FULL:
            return full_disk(folder)
        if link.errno in _READ_ONLY and link.filename is not None:  # sockets and TLS use the same numbers
            return StorageError(
                f"cannot write to {link.filename}",
                cause=link.strerror or str(link),
                remedy="give yourself the right to write there, or set XDG_CACHE_HOME (for the hubs HF_HOME, "
                "MODELSCOPE_CACHE) to another folder",
            )
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        link = link.__cause__ or link.__context__


def full_disk(folder: Path, needed: int | None = None) -> StorageError:
    """The error for a disk without room; `needed` in bytes if it is known."""
    free = free_bytes(folder)
    wanted = f"{human(needed)} ({needed} bytes) are needed, " if needed is not None else ""
    return StorageError(
        f"no room on the disk of {folder}",
        cause=f"{wanted}{human(free)} ({free} bytes) are free",
        remedy="make room (`boli models` lists models with their sizes, `boli models rm` removes one), "
        "or set XDG_CACHE_HOME (HF_HOME, MODELSCOPE_CACHE for the hubs) to a folder on a larger disk",
    )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the disk of `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(folder: Path, needed: int) -> None:
    """Raise `StorageError` unless `needed` bytes, and a little more, fit on the disk of `folder`."""
    if free_bytes(folder) < needed + _MARGIN_BYTES:
        raise full_disk(folder, needed)


@contextmanager
def staging(key: PurePosixPath, progress: Progress) -> Iterator[Path]:
    """Hold the lock of the model `key` and give its staging folder.

    A second process that wants the same model waits, and finds it finished. On leaving, the staging folder is
    removed unless it still holds a `*.part` that a later call can resume from.

    Raises:
        StorageError: The folder cannot be made or written.
    """
    root = models_folder()
    name = "+".join(key.parts)
    folder = root / ".staging" / name
    with storage_errors(root):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.with_name(f"{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.notice(f"another process is fetching {key.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with storage_errors(root):
                _sweep(folder)
                folder.mkdir(exist_ok=True)
                yield folder
        finally:
            _sweep(folder)
    finally:
        os.close(lock)


def _sweep(folder: Path) -> None:
    """Remove everything but `*.part` files, and the folder if it is then empty."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.suffix != ".part":
            entry.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def drop_partial(key: PurePosixPath) -> int:
    """Remove what an interrupted download of `key` left to be resumed; returns its bytes."""
    freed = 0
    for part in (models_folder() / ".staging" / "+".join(key.parts)).glob("*.part"):
        freed += part.stat().st_size
        part.unlink()
    return freed


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its name: flushed to the disk first, then renamed in one step."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(final)


def check_digest(what: str, expected: str, found: str) -> None:
    """Raise `IntegrityError` unless two hex digests are equal."""
    if expected.lower() != found.lower():
        raise IntegrityError(
            f"{what} is not what was promised",
            cause=f"its SHA-256 is {found}, expected was {expected}; nothing of it was kept",
            remedy="try again; if it happens again, an index or mirror changes files: use another one",
        )
