"""Arrays inside a JSON document: their kind, shape, and bytes in base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from boli.errors import CorruptFile

Kind = Literal["u1", "f2", "f4", "i4"]

#: Bytes of a number. `u1` stands for 0 … 1 in steps of 1/255, as attention weights are kept.
SIZES: Final[Mapping[str, int]] = {"u1": 1, "f2": 2, "f4": 4, "i4": 4}
_STEP: Final = 1.0 / 255.0


def packed(values: NDArray[Any], kind: Kind) -> dict[str, object]:
    """An array as it stands in a document.

    Args:
        values: Numbers; for `u1` between 0 and 1.
        kind: What they are kept as: little-endian, the last axis runs fastest.
    """
    scaled = np.rint(values / _STEP) if kind == "u1" else values
    data = np.ascontiguousarray(scaled, f"<{kind}").tobytes()
    array: dict[str, object] = {"dtype": kind, "shape": list(values.shape)}
    if kind == "u1":
        array["scale"] = _STEP
    return array | {"data": base64.b64encode(data).decode("ascii")}


def packed_bytes(shape: Sequence[int], kind: Kind) -> int:
    """Bytes of an array's numbers, before base64 makes four of three."""
    return prod(shape) * SIZES[kind]


def is_packed(value: object) -> bool:
    """Whether a part of a document is an array."""
    return isinstance(value, dict) and value.keys() >= {"dtype", "shape", "data"}


def unpacked(array: object, what: str) -> NDArray[Any]:
    """The numbers of an array: int32 for `i4`, else float32; a list is taken as it is.

    Raises:
        CorruptFile: It is no array, or has more or fewer bytes than its shape says.
    """
    if isinstance(array, list):
        return np.asarray(array)
    if not isinstance(array, dict) or not is_packed(array):
        raise CorruptFile(f"{what} is no array")
    kind, shape = array["dtype"], array["shape"]
    sizes = shape if isinstance(shape, list) else []
    if (
        not isinstance(kind, str)
        or kind not in SIZES
        or not isinstance(shape, list)
        or not all(type(size) is int and 0 <= size < 1 << 31 for size in sizes)
    ):
        raise CorruptFile(f"{what} is an array of no known kind or shape")
    try:
        data = base64.b64decode(array["data"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise CorruptFile(f"{what} is no base64", cause=str(error)) from error
    if len(data) != prod(sizes) * SIZES[kind]:
        raise CorruptFile(f"{what} has {len(data)} bytes, which is not what its shape {sizes} takes")
    values = np.frombuffer(data, f"<{kind}").reshape(sizes)
    if kind == "u1":
        return values.astype(np.float32) * np.float32(_STEP)
    return values.astype(np.int32 if kind == "i4" else np.float32)


def array_bytes(document: object) -> int:
    """Bytes of all arrays in a document."""
    if is_packed(document):
        assert isinstance(document, dict)
        return packed_bytes(document["shape"], document["dtype"])
    parts = (
        document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    )
    return sum(array_bytes(part) for part in parts)
