"""GGUF files made byte by byte, so that tests can make wrong ones, and one made by the `gguf` package."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0 = 0, 1, 2


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def array(item_type: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    return u32(item_type) + u64(len(items) if count is None else count) + b"".join(items)


def tensor(name: str | bytes, sizes: Sequence[int], kind: int = F32, offset: int = 0) -> bytes:
    """`sizes` as in the file, innermost dimension first."""
    return string(name) + u32(len(sizes)) + b"".join(map(u64, sizes)) + u32(kind) + u64(offset)


def build(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    entry_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file; counts may be made to lie."""
    head = magic + u32(version)
    head += u64(len(tensors) if tensor_count is None else tensor_count)
    head += u64(len(entries) if entry_count is None else entry_count)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def write_sample(path: Path, endianess: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE) -> None:
    """A file with a value of every type, arrays, and tensors in five formats, by the `gguf` package."""
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    writer.add_uint8("t.uint8", 200)
    writer.add_int8("t.int8", -100)
    writer.add_uint16("t.uint16", 60_000)
    writer.add_int16("t.int16", -30_000)
    writer.add_uint32("t.uint32", 4_000_000_000)
    writer.add_int32("t.int32", -2_000_000_000)
    writer.add_float32("t.float32", 1e-5)
    writer.add_bool("t.bool", True)
    writer.add_string("t.string", "玻璃 is glass 🫙")
    writer.add_uint64("t.uint64", 2**63)
    writer.add_int64("t.int64", -(2**62))
    writer.add_float64("t.float64", 0.1)
    writer.add_array("t.strings", ["<s>", "", "▁the", "我爱", "🫙"])
    writer.add_array("t.ints", [3, -1, 2])
    writer.add_array("t.floats", [0.5, -1.25])
    writer.add_array("t.bools", [True, False, True])
    rng = np.random.default_rng(0)
    writer.add_tensor("vector", rng.normal(size=5).astype(np.float32))
    writer.add_tensor("half.weight", rng.normal(size=(3, 4)).astype(np.float16))
    for kind in (
        gguf.GGMLQuantizationType.Q8_0,
        gguf.GGMLQuantizationType.Q4_1,
        gguf.GGMLQuantizationType.BF16,
    ):
        numbers = gguf.quants.quantize(rng.normal(size=(2, 64)).astype(np.float32), kind)
        writer.add_tensor(f"{kind.name}.weight", numbers, raw_dtype=kind)
    writer.add_tensor("cube", rng.normal(size=(2, 3, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
