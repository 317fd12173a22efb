"""GGUF files that are wrong in one way each, by the name of the damage."""

from __future__ import annotations

import struct

from boli.errors import BoliError, CorruptFile, UnsupportedModel
from formats import gguf_bytes as g

HUGE = 2**63
ONE = [g.tensor("a", [8])]
ROOM = bytes(64)


def u32_entry(key: str | bytes, value: int) -> bytes:
    return g.entry(key, g.UINT32, g.u32(value))


def nested(depth: int) -> bytes:
    """An array in an array in an array …"""
    return (g.u32(g.ARRAY) + g.u64(1)) * depth + g.array(g.UINT8, [b"\1"])


def value(kind: int, payload: bytes) -> bytes:
    """A file with one metadata entry."""
    return g.build([g.entry("a", kind, payload)])


def items(kind: int, values: list[bytes], count: int | None = None) -> bytes:
    """A file with one array in its metadata."""
    return value(g.ARRAY, g.array(kind, values, count))


def tensors(*descriptions: bytes) -> bytes:
    """A file with 64 bytes of tensors."""
    return g.build(tensors=descriptions, data=ROOM)


# name: (content, error, what the error says)
DAMAGE: dict[str, tuple[bytes, type[BoliError], str]] = {
    # the first 24 bytes
    "empty": (b"", CorruptFile, "is empty"),
    "magic": (g.build(magic=b"GGUX"), CorruptFile, "no GGUF file"),
    "magic alone": (b"GGUF", CorruptFile, "ends within the version"),
    "old format": (b"tjgg" + bytes(60), CorruptFile, "before August 2023"),
    "web page": (b"<!DOCTYPE html><title>Sign in</title>", CorruptFile, "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", CorruptFile, "Git LFS"),
    "zip of pickles": (b"PK\3\4" + bytes(60), CorruptFile, "zip archive"),
    "zeros": (bytes(4096), CorruptFile, "zeros"),
    "version 0": (g.build(version=0), CorruptFile, "version is 0"),
    "version 1": (g.build(version=1), UnsupportedModel, "version 1"),
    "version 4": (g.build(version=4), UnsupportedModel, "version 4"),
    "version of the future": (g.build(version=2**32 - 1), UnsupportedModel, "4294967295"),
    "big-endian version": (g.build(version=3 << 24), UnsupportedModel, "big-endian"),
    "entry count": (g.build(entry_count=HUGE), CorruptFile, "number of metadata entries is 9,223"),
    "entry count of all ones": (g.build(entry_count=2**64 - 1), CorruptFile, "number of metadata entries"),
    "one entry too many": (
        g.build([u32_entry("a" * 20, 1)], entry_count=2, alignment=1),
        CorruptFile,
        "ends within",
    ),
    "tensor count": (g.build(tensor_count=HUGE), CorruptFile, "number of tensors is 9,223"),
    "more entries than fit": (
        g.build(entry_count=500, data=bytes(4000)),
        CorruptFile,
        "metadata entries is 500",
    ),
    # metadata
    "key size": (g.build([g.u64(HUGE) + b"a" * 32]), CorruptFile, "claims to be 9,223"),
    "key size 64 K": (
        g.build([g.string(b"a" * 65536) + g.u32(0) + b"\0"]),
        CorruptFile,
        "claims to be 65,536",
    ),
    "empty key": (g.build([u32_entry("", 1)]), CorruptFile, "key 1 of 1 is empty"),
    "key is not UTF-8": (g.build([u32_entry(b"\xff\xfe", 1)]), CorruptFile, "key 1 of 1 is not UTF-8"),
    "key with a terminal's escape": (g.build([u32_entry("a\x1b[2J", 1)]), CorruptFile, r"a\\x1b\[2J"),
    "value type": (g.build([g.entry("a", 13, bytes(8))]), CorruptFile, "unknown type 13"),
    "value type of all ones": (
        g.build([g.entry("a", 2**32 - 1, bytes(8))]),
        CorruptFile,
        "unknown type 4294967295",
    ),
    "duplicate key": (
        g.build([u32_entry("a.b", 1), u32_entry("a.b", 1)]),
        CorruptFile,
        "'a.b' is there twice",
    ),
    "bool": (value(g.BOOL, b"\2"), CorruptFile, "neither 0 nor 1"),
    "string size": (value(g.STRING, g.u64(HUGE)), CorruptFile, "value of 'a' claims"),
    "string of all the rest": (value(g.STRING, g.u64(1000)), CorruptFile, "ends within the value of 'a'"),
    "string is not UTF-8": (value(g.STRING, g.string(b"\x80")), CorruptFile, "value of 'a' is not UTF-8"),
    "array type": (items(99, [b"x"]), CorruptFile, "unknown type 99"),
    "array of arrays": (value(g.ARRAY, nested(1)), CorruptFile, "array of arrays"),
    "arrays 100,000 deep": (value(g.ARRAY, nested(100_000)), CorruptFile, "array of arrays"),
    "array count": (items(g.UINT8, [], HUGE), CorruptFile, "items of 'a' is 9,223"),
    "array count times size wraps": (
        items(g.UINT64, [], 2**61 + 1),
        CorruptFile,
        "number of items",
    ),
    "array count of strings": (
        items(g.STRING, [], HUGE),
        CorruptFile,
        "number of items",
    ),
    "array of endless strings": (
        items(g.STRING, [g.u64(2**64 - 8)] * 9),
        CorruptFile,
        "strings of 'a'",
    ),
    "last string too long": (
        items(g.STRING, [g.string("x"), g.u64(999)]),
        CorruptFile,
        "strings of 'a'",
    ),
    # tensors
    "name size": (g.build(tensors=[g.u64(HUGE) + bytes(64)]), CorruptFile, "claims to be 9,223"),
    "name of 65 bytes": (tensors(g.tensor("a" * 65, [8])), CorruptFile, "claims to be 65"),
    "empty name": (tensors(g.tensor("", [8])), CorruptFile, "name is empty"),
    "duplicate name": (g.build(tensors=ONE * 2, data=ROOM), CorruptFile, "'a' is there twice"),
    "no dimensions": (tensors(g.tensor("a", [])), CorruptFile, "0 dimensions"),
    "five dimensions": (tensors(g.tensor("a", [1] * 5)), CorruptFile, "5 dimensions"),
    "a billion dimensions": (
        g.build(tensors=[g.string("a") + g.u32(10**9) + bytes(64)]),
        CorruptFile,
        "1000000000 dimensions",
    ),
    "zero dimension": (tensors(g.tensor("a", [8, 0])), CorruptFile, "dimension of tensor 'a' is 0"),
    "sizes wrap to a small product": (
        tensors(g.tensor("a", [2**32, 2**32 + 1])),
        CorruptFile,
        "past its end",
    ),
    "size of all ones": (tensors(g.tensor("a", [2**64 - 1])), CorruptFile, "past its end"),
    "bytes wrap": (tensors(g.tensor("a", [2**62])), CorruptFile, "past its end"),
    "offset plus bytes wraps": (
        tensors(g.tensor("a", [8], offset=2**64 - 32)),
        CorruptFile,
        "past its end",
    ),
    "unknown type": (tensors(g.tensor("a", [8], 77)), UnsupportedModel, "type 77, of tensor 'a'"),
    "withdrawn type": (tensors(g.tensor("a", [32], 31)), UnsupportedModel, "Q4_0_4_4"),
    "row is no whole block": (tensors(g.tensor("a", [31], g.Q4_0)), CorruptFile, "blocks of 32"),
    "misaligned offset": (tensors(g.tensor("a", [8], offset=8)), CorruptFile, "not aligned"),
    "not enough data": (g.build(tensors=ONE, data=bytes(31)), CorruptFile, "reaches past its end"),
    "no data": (g.build(tensors=ONE, alignment=1), CorruptFile, "reaches past its end"),
    "offset past the end": (tensors(g.tensor("a", [8], offset=64)), CorruptFile, "past its end"),
    "same place": (
        g.build(tensors=[*ONE, g.tensor("b", [8])], data=ROOM),
        CorruptFile,
        "'a' and 'b' overlap",
    ),
    "overlap in part": (
        tensors(g.tensor("b", [8], offset=32), g.tensor("a", [9])),
        CorruptFile,
        "overlap",
    ),
    # alignment
    **{
        f"alignment {value}": (
            g.build([u32_entry("general.alignment", value)], ONE, ROOM),
            CorruptFile,
            f"alignment is {value}",
        )
        for value in (0, 1, 4, 12, 33, 8192, 2**31)
    },
    "alignment of the wrong type": (
        g.build([g.entry("general.alignment", g.UINT64, g.u64(32))], ONE, ROOM),
        CorruptFile,
        "general.alignment",
    ),
    "alignment as text": (
        g.build([g.entry("general.alignment", g.STRING, g.string("32"))], ONE, ROOM),
        CorruptFile,
        "general.alignment",
    ),
    "data not at the alignment it claims": (
        g.build([u32_entry("general.alignment", 4096)], ONE, ROOM),
        CorruptFile,
        "past its end",
    ),
    "split": (
        g.build([g.entry("split.count", g.UINT16, struct.pack("<H", 3))]),
        UnsupportedModel,
        "split into 3 files",
    ),
}
