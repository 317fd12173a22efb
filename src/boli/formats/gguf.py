"""GGUF files, versions 2 and 3: a bounded reader.

    magic "GGUF" · version u32 · number of tensors u64 · number of metadata entries u64
    metadata     key · type u32 · value                                       for each entry
    tensors      name · dimensions u32 · each u64, innermost first · type u32 · offset u64     for each
    padding to `general.alignment`
    the tensors' bytes, each at its offset from here, a multiple of the alignment

All little-endian. Nothing in a file is believed: counts are checked against the bytes that are
left, sizes are products of Python integers, which do not wrap, and tensors must lie inside the
file, aligned, without overlap.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final

from boli.errors import CorruptFile, UnsupportedModel
from boli.formats.gguf_values import UINT32, Cursor, GGUFArray
from boli.formats.table import by_ggml_type
from boli.formats.tensor_file import TensorFile, TensorInfo, quoted

__all__ = ["GGUFArray", "GGUFFile", "TensorInfo"]

MAX_ENTRIES: Final = 1 << 16
MAX_TENSORS: Final = 1 << 16
MAX_KEY: Final = (1 << 16) - 1
MAX_NAME: Final = 64
MAX_DIMENSIONS: Final = 4
DEFAULT_ALIGNMENT: Final = 32
# The fewest bytes that an entry and a tensor's description can take.
_SMALLEST_ENTRY: Final = 8 + 1 + 4 + 1
_SMALLEST_TENSOR: Final = 8 + 1 + 4 + 8 + 4 + 8


class GGUFFile(TensorFile):
    """A GGUF file: metadata, tensors, and views of their bytes.

    Args:
        path: The file.

    Attributes:
        version: 2 or 3; they differ only in that 3 may be big-endian.
        metadata: `int`, `float`, `bool`, `str`, or `GGUFArray` for an array.
        tensors: Shapes are turned round, outermost dimension first.

    Raises:
        ModelNotFound: if there is no such file.
        CorruptFile: if the file is truncated, contradicts itself or is no GGUF file.
        UnsupportedModel: for version 1, big-endian and split files, and unknown tensor types.
        FormatError: if the file cannot be read.
    """

    version: int

    def _read_header(self) -> None:
        with self._file.view(0, self._file.nbytes) as view:
            cursor = Cursor(self._file, view)
            if bytes(view[:4]) != b"GGUF":
                raise self._file.mistaken("GGUF")
            cursor.position = 4
            self.version = self._check_version(cursor.u32("the version"))
            tensors = cursor.count("the number of tensors", _SMALLEST_TENSOR, MAX_TENSORS)
            entries = cursor.count("the number of metadata entries", _SMALLEST_ENTRY, MAX_ENTRIES)
            metadata, alignment = self._read_metadata(cursor, entries)
            self._check_split(metadata)
            infos = [self._read_tensor(cursor) for _ in range(tensors)]
            data_start = -(-cursor.position // alignment) * alignment
        self.metadata = MappingProxyType(metadata)
        self.tensors = MappingProxyType(self._place(infos, data_start, alignment))

    def _check_version(self, version: int) -> int:
        if version in (2, 3):
            return version
        if version and version & 0xFFFF == 0:
            raise UnsupportedModel(
                f"{self.path} is a big-endian GGUF file",
                cause="boli reads little-endian files, which nearly all published ones are",
                remedy="take the little-endian file of the model",
            )
        if version == 1:
            raise UnsupportedModel(
                f"{self.path} is a GGUF file of version 1",
                cause="that version was in use for two weeks of August 2023",
                remedy="convert the original model again, or take a newer file of it",
            )
        if version == 0:
            raise self._file.damaged("its GGUF version is 0")
        raise UnsupportedModel(
            f"{self.path} is a GGUF file of version {version}",
            cause="boli reads versions 2 and 3; the file is damaged or newer than boli",
        )

    def _read_metadata(self, cursor: Cursor, entries: int) -> tuple[dict[str, object], int]:
        metadata: dict[str, object] = {}
        alignment = DEFAULT_ALIGNMENT
        for number in range(1, entries + 1):
            key = cursor.name(f"key {number} of {entries}", MAX_KEY)
            if key in metadata:
                raise self._file.damaged(f"the key {quoted(key)} is there twice")
            kind, metadata[key] = cursor.value(key)
            if key == "general.alignment":
                alignment = self._check_alignment(kind, metadata[key])
        return metadata, alignment

    def _check_alignment(self, kind: int, value: object) -> int:
        if kind == UINT32 and isinstance(value, int) and 8 <= value <= 4096 and value.bit_count() == 1:
            return value
        raise self._file.damaged(
            f"general.alignment is {value!r}", cause="it must be a power of two from 8 to 4096, as a uint32"
        )

    def _check_split(self, metadata: dict[str, object]) -> None:
        parts = metadata.get("split.count")
        if isinstance(parts, int) and parts > 1:
            raise UnsupportedModel(
                f"{self.path} is one part of a model that was split into {parts} files",
                cause="boli reads a GGUF model from one file",
                remedy="join the parts with llama.cpp: `llama-gguf-split --merge FIRST-PART.gguf MODEL.gguf`",
            )

    def _read_tensor(self, cursor: Cursor) -> TensorInfo:
        """One description; `offset` is still relative to the start of the data."""
        name = cursor.name("a tensor's name", MAX_NAME)
        what = f"the description of tensor {name!r}"
        dimensions = cursor.u32(what)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._file.damaged(
                f"tensor {name!r} has {dimensions} dimensions", cause="1 to 4 are allowed"
            )
        sizes = [cursor.u64(what) for _ in range(dimensions)]
        if 0 in sizes:
            raise self._file.damaged(f"a dimension of tensor {name!r} is 0", cause=f"its shape is {sizes}")
        try:
            fmt = by_ggml_type(cursor.u32(what))
        except UnsupportedModel as error:
            raise UnsupportedModel(
                f"{self.path}: {error.message}, of tensor {name!r}", cause=error.cause, remedy=error.remedy
            ) from None
        if sizes[0] % fmt.block_size:
            raise self._file.damaged(
                f"rows of tensor {name!r} have {sizes[0]:,} numbers",
                cause=f"{fmt.name} stores blocks of {fmt.block_size}",
            )
        nbytes = math.prod(sizes[1:]) * fmt.nbytes(sizes[0])
        return TensorInfo(name, fmt, tuple(reversed(sizes)), cursor.u64(what), nbytes)

    def _place(self, infos: list[TensorInfo], data_start: int, alignment: int) -> dict[str, TensorInfo]:
        """Makes offsets absolute; checks that tensors are aligned, inside the file and apart."""
        placed: dict[str, TensorInfo] = {}
        room = max(self._file.nbytes - data_start, 0)
        for info in infos:
            if info.name in placed:
                raise self._file.damaged(f"tensor {info.name!r} is there twice")
            if info.offset % alignment:
                raise self._file.damaged(
                    f"tensor {info.name!r} is not aligned",
                    cause=f"its offset {info.offset:,} is no multiple of {alignment}",
                )
            if info.offset + info.nbytes > room:
                raise self._ends_early(info, data_start)
            placed[info.name] = TensorInfo(
                info.name, info.format, info.shape, data_start + info.offset, info.nbytes
            )
        end, before = data_start, ""
        for info in sorted(placed.values(), key=lambda each: each.offset):
            if info.offset < end:
                raise self._file.damaged(f"tensors {before!r} and {info.name!r} overlap")
            end, before = info.offset + info.nbytes, info.name
        return placed

    def _ends_early(self, info: TensorInfo, data_start: int) -> CorruptFile:
        return self._file.damaged(
            f"tensor {info.name!r} ({info.format.name}, shape {list(info.shape)}) reaches past its end",
            cause=f"it would end at byte {data_start + info.offset + info.nbytes:,} and the file has "
            f"{self._file.nbytes:,}; most often, the download was cut off",
        )
