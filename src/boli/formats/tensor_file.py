"""What GGUF and safetensors files share: named tensors in a read-only mapping of a file.

The file is mapped, not read: opening takes no memory in proportion to it, and what `data` returns
are views of it. The price is that a file which another program shortens while it is mapped cannot
be read any more; touching the lost pages would end the process with SIGBUS. So every way to the
bytes first compares the file's size with what it was when it was opened, and raises `CorruptFile`.
What remains is the moment between that look and the last use of the view. Programs that replace a
model file safely write a new one and rename it over the old; that never disturbs a mapping.
"""

from __future__ import annotations

import mmap
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from boli.errors import CorruptFile, FormatError, ModelNotFound
from boli.formats.table import NumberFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DOWNLOAD_AGAIN: Final = "download the file again, and compare its SHA-256 with the one its publisher gives"

# What people have by mistake under a model's name, by its first bytes.
_IMPOSTORS: Final = (
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    ),
    (b"<", "it looks like a web page: the download was answered with an error or a login page"),
    (b"PK\x03\x04", "it is a zip archive, as PyTorch writes its pickles, under another name"),
    (b"GGUF", "it is a GGUF file under another name"),
    (b"ggjt", "it is in GGML's format of before August 2023; convert the original model to GGUF"),
    (b"tjgg", "it is in GGML's format of before August 2023; convert the original model to GGUF"),
    (b"\0\0\0\0\0\0\0\0", "it starts with zeros: the download was reserved on the disk but not written"),
)


def quoted(text: str) -> str:
    """A name from a file as errors show it: escaped, and cut after 80 characters."""
    return repr(text) if len(text) <= 80 else repr(text[:80]) + "…"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies, and what it is.

    Attributes:
        name: Its name in the file.
        format: How its numbers are stored.
        shape: Outermost dimension first, as NumPy has it: `(rows, columns)` of a matrix.
        offset: Bytes from the start of the file.
        nbytes: Bytes that it takes.
    """

    name: str
    format: NumberFormat
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class MappedFile:
    """A read-only mapping of a regular file.

    Args:
        path: The file.

    Raises:
        ModelNotFound: if there is no such file.
        CorruptFile: if it is empty.
        FormatError: if it is no regular file, or may not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without O_NONBLOCK, opening a pipe would wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ModelNotFound(f"no such file: {path}") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise FormatError(f"cannot open {path}", cause=str(error)) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{path} is not a file", remedy="give the path of a model file")
            if status.st_size == 0:
                raise CorruptFile(f"{path} is empty", remedy=DOWNLOAD_AGAIN)
            self._mapping = mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FormatError(f"cannot map {path} into memory", cause=str(error)) from None
        finally:
            os.close(descriptor)
        self.nbytes = status.st_size
        self._closed = False

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Bytes of the file, not copied. The caller has checked that they lie inside it.

        Raises:
            CorruptFile: if the file has become shorter since it was opened.
            ValueError: if it is closed.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        now = self._mapping.size()
        if now < self.nbytes:
            raise CorruptFile(
                f"{self.path} has become shorter while it was in use",
                cause=f"it had {self.nbytes:,} bytes when it was opened, and has {now:,}",
                remedy="open the model again once nothing else writes to the file",
            )
        return memoryview(self._mapping)[offset : offset + nbytes]

    def damaged(self, what: str, cause: str = "") -> CorruptFile:
        """The error for a file whose content contradicts itself or its size."""
        return CorruptFile(f"{self.path} is damaged: {what}", cause=cause, remedy=DOWNLOAD_AGAIN)

    def mistaken(self, expected: str) -> CorruptFile:
        """The error for a file that is of another kind altogether, with a guess which."""
        head = bytes(self.view(0, min(64, self.nbytes)))
        for start, guess in _IMPOSTORS:
            if head.startswith(start):
                return CorruptFile(f"{self.path} is no {expected} file", cause=guess, remedy=DOWNLOAD_AGAIN)
        return CorruptFile(
            f"{self.path} is no {expected} file", cause=f"it starts with {head[:8]!r}", remedy=DOWNLOAD_AGAIN
        )

    def close(self) -> None:
        """Ends the mapping, or leaves that to the last view of it. May be called twice."""
        self._closed = True
        with suppress(BufferError):  # a view is in use: the mapping ends with the last one
            self._mapping.close()


class TensorFile(ABC):
    """Named tensors in a mapped file: the common face of `GGUFFile` and `SafetensorsFile`.

    Attributes:
        path: The file.
        metadata: What the file says about itself.
        tensors: What is in it, by name, in the file's order.
    """

    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = MappedFile(self.path)
        self.metadata = {}
        self.tensors = {}
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _read_header(self) -> None:
        """Fills `metadata` and `tensors`, every entry checked against the bytes of the file."""

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor: uint8 `[nbytes]`, a read-only view of the mapped file.

        Raises:
            CorruptFile: if the file has become shorter since it was opened.
            KeyError: if there is no such tensor.
            ValueError: if the file is closed.
        """
        import numpy as np  # noqa: PLC0415  who reads headers alone does without

        info = self.tensors[name]
        return np.frombuffer(self._file.view(info.offset, info.nbytes), np.uint8)

    def close(self) -> None:
        """Ends the mapping as soon as no view of it is in use. May be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self.tensors)} tensors)"
