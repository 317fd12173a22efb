"""A copy of packed matrices on the disk: reading it takes a tenth of the time that packing takes.

A copy is keyed by the model's files as they lie there (place, size, time of change, inode), by the form
that the matrices were brought into, and by the code that packs; hashing the model itself would cost a
third of what the copy saves. Every piece of a copy carries a SHA-256 and is checked when it is read: what
does not fit is as good as not there. Copies live in `<cache folder>/packed`, at most `MOST_BYTES` of them,
the longest unused go first. Removing any of them costs time at the next start, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from boli.cpu.compiler import trusted
from boli.machine import cache_dir

if TYPE_CHECKING:
    from boli.formats.checkpoint import Checkpoint

Bytes = npt.NDArray[np.uint8]

LEAST_COPY = 32 << 20  # smaller ones are packed as fast as they are found
LARGEST_COPY = 1 << 30
MOST_BYTES = 4 << 30
LARGEST_HEADER = 1 << 20  # 128 pieces have 10 kB
PIECE = 8 << 20  # bytes that one thread reads and checks at a time
_PACKING = ("layouts.py", "packers.py", "packing.py", "packed_copy.py")


class PackedCopy:
    """The copy of one model's packed matrices; perhaps it does not exist yet.

    Args:
        checkpoint: What is packed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        digest = hashlib.sha256(repr(checkpoint.form).encode())
        for name in _PACKING:
            digest.update(Path(__file__).with_name(name).read_bytes())
        for path in checkpoint.files:
            status = path.stat()
            facts = str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino
            digest.update(repr(facts).encode())
        self.path = folder() / f"{digest.hexdigest()[:32]}.packed"

    def read(self, buffers: Sequence[Bytes], threads: int) -> bool:
        """Fills the buffers; False, with anything in them, if there is no copy that fits."""
        if not _worthwhile(buffers) or not trusted(self.path.parent):
            return False
        try:
            with self.path.open("rb", buffering=0) as file, ThreadPoolExecutor(threads) as pool:
                start = int.from_bytes(file.read(8), "little")
                if start > LARGEST_HEADER:
                    return False
                expected = json.loads(file.read(start))
                if expected["bytes"] != [len(buffer) for buffer in buffers]:
                    return False
                found = pool.map(
                    lambda piece: _read(file, 8 + start + piece[0], piece[1]), _pieces(buffers)
                )  # fmt: skip
                if list(found) != expected["sha256"]:
                    return False
            os.utime(self.path)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def write(self, buffers: Sequence[Bytes], threads: int) -> None:
        """Keeps what was packed, if it is of a size that pays and the disk lets us."""
        if not _worthwhile(buffers):
            return
        with ThreadPoolExecutor(threads) as pool:
            sums = list(pool.map(lambda piece: hashlib.sha256(piece[1].data).hexdigest(), _pieces(buffers)))
        header = json.dumps({"bytes": [len(buffer) for buffer in buffers], "sha256": sums}).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _make_room(self.path.parent, sum(len(buffer) for buffer in buffers))
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                for buffer in buffers:
                    file.write(buffer.data)
            Path(temporary).replace(self.path)
        except BaseException as error:  # Ctrl-C too must not leave half a file
            Path(temporary).unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise


def folder() -> Path:
    """Where copies are kept."""
    return cache_dir() / "packed"


def _worthwhile(buffers: Sequence[Bytes]) -> bool:
    return LEAST_COPY <= sum(len(buffer) for buffer in buffers) <= LARGEST_COPY


def _pieces(buffers: Sequence[Bytes]) -> Iterator[tuple[int, Bytes]]:
    """Parts of the buffers, each with its place in the file behind the header."""
    start = 0
    for buffer in buffers:
        for at in range(0, len(buffer), PIECE):
            yield start + at, buffer[at : at + PIECE]
        start += len(buffer)


def _read(file: BinaryIO, start: int, piece: Bytes) -> str:
    """Reads one piece; its hash, or nothing if the file ends before."""
    done = 0
    while done < len(piece):
        count = os.preadv(file.fileno(), [piece[done:].data], start + done)
        if not count:
            return ""
        done += count
    return hashlib.sha256(piece.data).hexdigest()


def _make_room(directory: Path, wanted: int) -> None:
    """Removes the copies that were not used for longest, and what a killed process left."""
    copies = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime)
    sizes = [path.stat().st_size for path in copies]
    excess = sum(sizes) + wanted - MOST_BYTES
    for path, size in zip(copies, sizes, strict=True):
        if excess > 0 or path.name.startswith(".new-"):
            path.unlink(missing_ok=True)
            excess -= size
