"""safetensors files: a bounded reader.

    length u64 · header, JSON of that length · the tensors' bytes
    {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …, "__metadata__": {"k": "v"}}

The reader is our own, so that tensors are views of the mapped file and errors are ours. It accepts
no file that the format's own library refuses: the bytes are covered by tensors without overlap and
without a hole. Beyond that it refuses names that are there twice or are not printable. The header
is limited before it is parsed, by length and by its brackets, commas and colons, since parsing
turns two bytes into an object of fifty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NoReturn

from boli.errors import UnsupportedModel
from boli.formats.table import by_safetensors
from boli.formats.tensor_file import TensorFile, TensorInfo, quoted

__all__ = ["SafetensorsFile", "TensorInfo"]

MAX_HEADER: Final = 100_000_000  # the limit of the format's own library
MAX_TENSORS: Final = 1 << 16  # in one file; models with more have shards
MAX_DIMENSIONS: Final = 16
MAX_NAME: Final = 1024
# A tensor's entry needs three brackets that open and nine commas and colons; names may hold some too.
_MAX_BRACKETS: Final = 4 * MAX_TENSORS
_MAX_SEPARATORS: Final = 16 * MAX_TENSORS
_MAX_DIGITS: Final = 19  # of 2^63


class SafetensorsFile(TensorFile):
    """A safetensors file: metadata, tensors, and views of their bytes.

    Args:
        path: The file.

    Attributes:
        metadata: The file's `__metadata__`: strings by name.
        tensors: What is in it; `format` is named after the dtype.

    Raises:
        ModelNotFound: if there is no such file.
        CorruptFile: if the file is truncated, contradicts itself or is no safetensors file.
        UnsupportedModel: for a dtype that boli has never heard of.
        FormatError: if the file cannot be read.
    """

    def _read_header(self) -> None:
        start, header = self._parse_header()
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(_is_text(each) for each in metadata.values()):
            raise self._file.damaged("__metadata__ is not an object of strings")
        if len(header) > MAX_TENSORS:
            raise self._file.damaged(
                f"it claims to hold {len(header):,} tensors", cause=f"at most {MAX_TENSORS:,} are allowed"
            )
        tensors = {name: self._read_tensor(name, entry, start) for name, entry in header.items()}
        self._check_cover(tensors, start)
        self.metadata = MappingProxyType(metadata)
        self.tensors = MappingProxyType(tensors)

    def _parse_header(self) -> tuple[int, dict[str, object]]:
        """Where the tensors' bytes begin, and the header as parsed."""
        file = self._file
        if file.nbytes < 8:
            raise file.damaged(f"it has {file.nbytes} bytes", cause="the header's length alone takes 8")
        length = int.from_bytes(file.view(0, 8), "little")
        if length > MAX_HEADER:
            if length >> 32:  # the first eight bytes are text or another format's
                raise file.mistaken("safetensors")
            raise file.damaged(
                f"its header claims {length:,} bytes", cause=f"at most {MAX_HEADER:,} are allowed"
            )
        if length > file.nbytes - 8:
            raise file.damaged(
                "it ends within the header",
                cause=f"the header has {length:,} bytes, the file {file.nbytes:,}",
            )
        raw = bytes(file.view(8, length))
        if not raw.startswith(b"{"):
            raise file.mistaken("safetensors")
        brackets, separators = raw.count(b"{") + raw.count(b"["), raw.count(b",") + raw.count(b":")
        if brackets > _MAX_BRACKETS or separators > _MAX_SEPARATORS:
            raise file.damaged(
                "its header is absurdly large",
                cause=f"it has {brackets:,} brackets and {separators:,} commas and colons; "
                f"{_MAX_BRACKETS:,} and {_MAX_SEPARATORS:,} are allowed",
            )
        try:
            header = json.loads(
                raw.decode(),
                object_pairs_hook=without_duplicates,
                parse_int=_parse_size,
                parse_float=_no_number,
                parse_constant=_no_number,
            )
        except RecursionError:
            raise file.damaged("its header is nested too deeply") from None
        except ValueError as error:  # JSON's and UTF-8's errors, and those of the hooks
            raise file.damaged("its header is not valid JSON", cause=str(error)[:200]) from None
        if not isinstance(header, dict):
            raise file.damaged("its header is not a JSON object")
        return 8 + length, header

    def _read_tensor(self, name: str, entry: object, start: int) -> TensorInfo:
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise self._file.damaged(
                f"a tensor is named {quoted(name)}",
                cause=f"names are printable text of 1 to {MAX_NAME} characters",
            )
        what = f"tensor {quoted(name)}"
        if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
            raise self._file.damaged(f"the entry of {what} lacks dtype, shape or data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if (
            not isinstance(dtype, str)
            or not _are_sizes(shape)
            or not _are_sizes(offsets)
            or len(offsets) != 2
        ):
            raise self._file.damaged(
                f"the entry of {what} makes no sense", cause=f"it is {quoted(json.dumps(entry))}"
            )
        if len(shape) > MAX_DIMENSIONS:
            raise self._file.damaged(
                f"{what} has {len(shape)} dimensions", cause=f"up to {MAX_DIMENSIONS} are allowed"
            )
        try:
            fmt = by_safetensors(dtype)
        except UnsupportedModel as error:
            raise UnsupportedModel(
                f"{self.path}: {error.message}, of {what}", cause=error.cause, remedy=error.remedy
            ) from None
        count = math.prod(shape)
        if count % fmt.block_size:
            raise self._file.damaged(f"{what}, {count:,} numbers of {dtype}, does not end at a whole byte")
        nbytes = fmt.nbytes(count)
        begin, end = offsets
        if end - begin != nbytes:
            raise self._file.damaged(
                f"{what} has {end - begin:,} bytes", cause=f"{dtype} of shape {shape} needs {nbytes:,}"
            )
        return TensorInfo(name, fmt, tuple(shape), start + begin, nbytes)

    def _check_cover(self, tensors: Mapping[str, TensorInfo], start: int) -> None:
        """Every byte behind the header belongs to exactly one tensor."""
        end = start
        for info in sorted(tensors.values(), key=lambda each: (each.offset, each.nbytes)):
            if info.offset != end:
                raise self._file.damaged(
                    f"tensor {quoted(info.name)} "
                    + ("overlaps the one before it" if info.offset < end else "has a hole before it"),
                    cause=f"it begins at byte {info.offset:,}, not {end:,}",
                )
            end += info.nbytes
        if end > self._file.nbytes:
            raise self._file.damaged(
                "its tensors reach past its end",
                cause=f"they end at byte {end:,} and the file has {self._file.nbytes:,}; "
                "most often, the download was cut off",
            )
        if end < self._file.nbytes:
            raise self._file.damaged(f"{self._file.nbytes - end:,} bytes at its end belong to no tensor")


def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For `json.loads(object_pairs_hook=…)`: raises `ValueError` for a name that is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, following in pairwise(names) if name == following)
        raise ValueError(f"the name {quoted(twice)} is there twice")
    return found


def _is_text(value: object) -> bool:
    # An escape such as \ud800 alone makes a string that no output takes.
    return isinstance(value, str) and (
        value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)
    )


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(each) is int for each in values)


def _parse_size(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or digits.startswith("-"):
        raise ValueError(f"{digits[:40]} is not a size")
    return int(digits)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not a size")
