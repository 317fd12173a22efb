"""A trace document as few bytes inside a page, without losing any of it.

Base64 of gzip of `[length of the JSON, 4 bytes little-endian][JSON][bytes]`. The JSON is
`{"texts", "stacks", "document"}`, and in the document

- a list of at least `COLUMNS` objects with the same keys is `{"#columns": {key: values}, "#length": n}`;
- `text` is left out beside an `id` whose text `texts` has;
- a packed array's `data` is `[start, end]` in the bytes, or, for bytes (`u1`), `{"stack": lead, "index": i}`.

A stack is all `u1` arrays that agree in the product of all sizes but the last (`lead`): attention of growing
rows, most of it 0. It is stored position by position, each one's weight in all the rows that see it, since
those are alike; first a bit for each weight that is not 0, then those weights. That is a fifth less after
compression.

`web/src/lib/open.ts` reads it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: From how many objects on a list is stored by columns.
COLUMNS: Final = 4

Bytes = NDArray[np.uint8]


def packed(document: Mapping[str, Any]) -> str:
    """The base64 of a document; the same for the same document.

    Raises:
        ValueError: An array's bytes are no base64 or do not fit its shape, or a number is not finite.
    """
    packer = _Packer()
    inner = packer.pack(document)
    packer.close_stacks()
    stacks = [
        {"lead": lead, "lengths": stack.lengths, "at": stack.at} for lead, stack in packer.stacks.items()
    ]
    whole = {"texts": packer.texts, "stacks": stacks, "document": inner}
    text = json.dumps(whole, allow_nan=False, separators=(",", ":")).encode("ascii")
    content = len(text).to_bytes(4, "little") + text + bytes(packer.blob)
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


class _Stack:
    """Arrays of bytes with the same leading sizes.

    Attributes:
        arrays: Each `[lead, length]`, `lead` the product of the leading sizes.
        at: Where its bits start, where its weights start, and where they end.
    """

    def __init__(self) -> None:
        self.arrays: list[Bytes] = []
        self.at: tuple[int, int, int] = (0, 0, 0)

    @property
    def lengths(self) -> list[int]:
        return [array.shape[1] for array in self.arrays]

    def values(self) -> Bytes:
        """All of them: by leading index, then by position, then by array."""
        lengths = np.array(self.lengths)
        longest, lead = int(lengths.max()), self.arrays[0].shape[0]
        there = np.arange(longest)[:, None] < lengths  # [positions, arrays]
        square = np.zeros((longest, lengths.size), np.uint8)
        parts = []
        for index in range(lead):
            for column, array in enumerate(self.arrays):
                square[: array.shape[1], column] = array[index]
            parts.append(square[there])
        return np.concatenate(parts)


class _Packer:
    def __init__(self) -> None:
        self.blob = bytearray()
        self.texts: dict[int, str] = {}
        self.stacks: dict[int, _Stack] = {}

    def pack(self, value: Any) -> Any:  # any JSON
        if isinstance(value, Mapping):
            if "dtype" in value and isinstance(value.get("data"), str):
                return {**value, "data": self._array(value)}
            return {key: self.pack(inner) for key, inner in value.items() if not self._known(key, value)}
        if isinstance(value, list | tuple):
            if len(value) >= COLUMNS and all(isinstance(one, Mapping) for one in value):
                return self._columns(value)
            return [self.pack(inner) for inner in value]
        return value

    def _columns(self, rows: list[Mapping[str, Any]] | tuple[Mapping[str, Any], ...]) -> Any:
        packed_rows = [self.pack(row) for row in rows]
        keys = list(packed_rows[0])
        if any(list(row) != keys or "#columns" in row for row in packed_rows):
            return packed_rows
        # Columns of columns: what is nested goes together as well.
        columns = {key: self._nested([row[key] for row in packed_rows]) for key in keys}
        return {"#columns": columns, "#length": len(packed_rows)}

    def _nested(self, values: list[Any]) -> Any:
        if all(isinstance(one, dict) for one in values):
            keys = list(values[0])
            if all(list(one) == keys for one in values) and "#columns" not in keys:
                return {
                    "#columns": {k: self._nested([one[k] for one in values]) for k in keys},
                    "#length": len(values),
                }
        return values

    def _known(self, key: str, value: Mapping[str, Any]) -> bool:
        """Whether a text need not be repeated, because the text of its id is known."""
        token, text = value.get("id"), value.get("text")
        if key != "text" or not isinstance(token, int) or not isinstance(text, str):
            return False
        return self.texts.setdefault(token, text) == text

    def _array(self, array: Mapping[str, Any]) -> list[int] | dict[str, int]:
        content = base64.b64decode(array["data"], validate=True)
        shape = array["shape"]
        if array["dtype"] != "u1" or len(shape) < 2 or not content:
            start = len(self.blob)
            self.blob += content
            return [start, len(self.blob)]
        lead = prod(shape[:-1])
        arrays = self.stacks.setdefault(lead, _Stack()).arrays
        arrays.append(np.frombuffer(content, np.uint8).reshape(lead, shape[-1]))
        return {"stack": lead, "index": len(arrays) - 1}

    def close_stacks(self) -> None:
        """Writes the stacks behind everything else."""
        for stack in self.stacks.values():
            values = stack.values()
            start = len(self.blob)
            self.blob += np.packbits(values != 0, bitorder="little").tobytes()
            middle = len(self.blob)
            self.blob += values[values != 0].tobytes()
            stack.at = (start, middle, len(self.blob))
