"""Writes a file in one piece: whoever reads it finds the old text or the new one, never half of either."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from boli.errors import StorageError


def write_whole(path: str | Path, text: str, what: str) -> None:
    """Writes a text as UTF-8, so that a full disk, an interrupt or a crash leaves no half file.

    Only the owner may read it, as with all that holds what people asked.

    Args:
        path: The file; it is replaced if it exists.
        text: What goes into it. Halves of surrogate pairs, which no UTF-8 text holds, become `?`.
        what: What it is, for the error: "the trace".

    Raises:
        StorageError: It could not be written; what was there is still there.
    """
    path = Path(path)
    try:
        with tempfile.NamedTemporaryFile(
            "wb", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text.encode("utf-8", errors="replace"))
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StorageError(
            f"{what} could not be written to {path}",
            cause=error.strerror or str(error),
            remedy="choose a folder that exists, may be written to and has room",
        ) from error
