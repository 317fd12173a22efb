"""The values of a GGUF header: numbers, strings, and arrays that are decoded when they are read.

The format is described in ggml's `docs/gguf.md`: a value is preceded by the number of its type; a
string is a 64-bit length and that many bytes of UTF-8; an array is the type of its items, a 64-bit
count, and the items.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, overload

from boli.formats.tensor_file import MappedFile, quoted

UINT32: Final = 4
BOOL: Final = 7
STRING: Final = 8
ARRAY: Final = 9

_TYPE_NAMES: Final = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32",
    "bool", "string", "array", "uint64", "int64", "float64",
)  # fmt: skip
_STRUCTS: Final = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<B"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_U32: Final = _STRUCTS[4]
_U64: Final = _STRUCTS[10]

# Vocabularies of a million tokens fit, with as many merges; walking over more strings would take long.
MAX_STRINGS: Final = 1 << 22
MAX_NUMBERS: Final = 1 << 23
# Strings outside arrays are decoded at once; the longest in use are whole `tokenizer.json` files.
MAX_TEXT: Final = 64 << 20


class GGUFArray(Sequence[object]):
    """An array in a GGUF header. Its length is known; its items are decoded when they are read.

    `list(array)` is the way to read one. A single string costs a walk over those before it.

    Iteration yields `int`, `float`, `bool` or `str`, and raises `CorruptFile` for text that is not
    UTF-8, for a bool that is neither 0 nor 1, and if the file has become shorter; `ValueError` if
    it is closed.
    """

    def __init__(
        self, file: MappedFile, key: str, *, item_type: int, offset: int, nbytes: int, count: int
    ) -> None:
        self._file = file
        self._key = key
        self._type = item_type
        self._offset = offset
        self._nbytes = nbytes
        self._count = count

    @property
    def item_type(self) -> str:
        """The type of the items: `string`, `float32`, `int32` and so on."""
        return _TYPE_NAMES[self._type]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[object]:
        if self._type == STRING:
            return self._strings()
        return iter(self._numbers())

    @overload
    def __getitem__(self, index: int) -> object: ...
    @overload
    def __getitem__(self, index: slice) -> list[object]: ...
    def __getitem__(self, index: int | slice) -> object:
        if isinstance(index, slice):
            return list(self)[index]
        position = index + self._count if index < 0 else index
        if not 0 <= position < self._count:
            raise IndexError(f"{self._key} has {self._count} items, no item {index}")
        return next(islice(self, position, None))

    def __repr__(self) -> str:
        return f"GGUFArray({self._count} × {self.item_type})"

    def _numbers(self) -> list[object]:
        code = _STRUCTS[self._type].format[1:]
        numbers = struct.unpack(f"<{self._count}{code}", self._bytes())
        if self._type == BOOL:
            if max(numbers, default=0) > 1:
                raise self._file.damaged(f"a bool in {quoted(self._key)} is neither 0 nor 1")
            return [number == 1 for number in numbers]
        return list(numbers)

    def _strings(self) -> Iterator[str]:
        data = self._bytes()
        read_length = _U64.unpack_from
        start = end = 0
        try:
            for _ in range(self._count):
                start = end + 8
                end = start + read_length(data, end)[0]
                yield data[start:end].decode()
        except UnicodeDecodeError as error:
            raise self._file.damaged(
                f"a string in {quoted(self._key)} is not UTF-8",
                cause=f"at byte {self._offset + start:,}: {error.reason}",
            ) from None

    def _bytes(self) -> bytes:
        """A copy, of a few MB: quicker to cut up than the mapping, and safe from changes of the file."""
        with self._file.view(self._offset, self._nbytes) as view:
            return bytes(view)


class Cursor:
    """Reads a GGUF header from front to back; no read goes past the end of the file.

    Args:
        file: The file, for errors and for arrays that are read later.
        view: All of its bytes.

    Every method raises `CorruptFile` where the file contradicts itself or ends early.
    """

    def __init__(self, file: MappedFile, view: memoryview) -> None:
        self.file = file
        self.position = 0
        self._view = view
        self._strings = 0
        self._text = 0

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
        return self.file.nbytes - self.position

    def need(self, nbytes: int, what: str) -> None:
        """Refuses to go on if there are fewer bytes left."""
        if nbytes > self.left:
            raise self.file.damaged(
                f"it ends within {what}",
                cause=f"{nbytes:,} bytes are needed at byte {self.position:,} and {self.left:,} are left",
            )

    def u32(self, what: str) -> int:
        """An unsigned 32-bit integer."""
        self.need(4, what)
        (value,) = _U32.unpack_from(self._view, self.position)
        self.position += 4
        return int(value)

    def u64(self, what: str) -> int:
        """An unsigned 64-bit integer."""
        self.need(8, what)
        (value,) = _U64.unpack_from(self._view, self.position)
        self.position += 8
        return int(value)

    def string(self, what: str, limit: int) -> str:
        """A string of at most `limit` bytes of UTF-8."""
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise self.file.damaged(
                f"{what} claims to be {length:,} bytes long",
                cause=f"at byte {self.position - 8:,}; at most {limit:,} are allowed",
            )
        self.need(length, what)
        start, self.position = self.position, self.position + length
        try:
            return str(self._view[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            raise self.file.damaged(
                f"{what} is not UTF-8", cause=f"at byte {start:,}: {error.reason}"
            ) from None

    def name(self, what: str, limit: int) -> str:
        """A string that names something: neither empty nor with characters that terminals obey."""
        start = self.position
        text = self.string(what, limit)
        if text and text.isprintable():
            return text
        raise self.file.damaged(
            f"{what} is {quoted(text) if text else 'empty'}",
            cause=f"at byte {start:,}; names are printable text",
        )

    def count(self, what: str, smallest: int, limit: int) -> int:
        """A number of things that take at least `smallest` bytes each; at most `limit`."""
        value = self.u64(what)
        if value > min(limit, self.left // smallest):
            raise self.file.damaged(
                f"{what} is {value:,}",
                cause=f"the rest of the file has room for {self.left // smallest:,}; the limit is {limit:,}",
            )
        return value

    def value(self, key: str) -> tuple[int, object]:
        """The type and the value of a metadata entry."""
        what = f"the value of {quoted(key)}"
        kind = self.u32(f"the type of {quoted(key)}")
        if kind == STRING:
            text = self.string(what, MAX_TEXT - self._text)
            self._text += len(text)
            return kind, text
        if kind == ARRAY:
            return kind, self._array(key)
        layout = _STRUCTS.get(kind)
        if layout is None:
            raise self.file.damaged(
                f"{what} has the unknown type {kind}", cause=f"at byte {self.position - 4:,}"
            )
        self.need(layout.size, what)
        (number,) = layout.unpack_from(self._view, self.position)
        self.position += layout.size
        if kind == BOOL:
            if number > 1:
                raise self.file.damaged(
                    f"{what} is a bool, but neither 0 nor 1", cause=f"at byte {self.position - 1:,}"
                )
            return kind, bool(number)
        return kind, number

    def _array(self, key: str) -> GGUFArray:
        kind = self.u32(f"the item type of {quoted(key)}")
        if kind == ARRAY:
            raise self.file.damaged(
                f"{quoted(key)} is an array of arrays", cause="GGUF models use flat arrays only"
            )
        if kind != STRING and kind not in _STRUCTS:
            raise self.file.damaged(
                f"the items of {quoted(key)} have the unknown type {kind}",
                cause=f"at byte {self.position - 4:,}",
            )
        size = 8 if kind == STRING else _STRUCTS[kind].size
        limit = MAX_STRINGS - self._strings if kind == STRING else MAX_NUMBERS
        count = self.count(f"the number of items of {quoted(key)}", size, limit)
        start = self.position
        if kind == STRING:
            self._skip_strings(key, count)
            self._strings += count
        else:
            self.position += count * size
        return GGUFArray(
            self.file, key, item_type=kind, offset=start, nbytes=self.position - start, count=count
        )

    def _skip_strings(self, key: str, count: int) -> None:
        # Half a million rounds for a large vocabulary: everything in the loop is local.
        view, position, last = self._view, self.position, self.file.nbytes - 8
        read_length = _U64.unpack_from
        for _ in range(count):
            if position > last:
                break
            position += 8 + read_length(view, position)[0]
        else:
            if position <= self.file.nbytes:
                self.position = position
                return
        raise self.file.damaged(
            f"it ends within the strings of {quoted(key)}", cause=f"they start at byte {self.position:,}"
        )
