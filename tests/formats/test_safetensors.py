"""The safetensors reader, on files by the `safetensors` package and on files that are damaged or lie."""

from __future__ import annotations

import ctypes
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import BoliError, CorruptFile, FormatError, ModelNotFound, UnsupportedModel
from boli.formats.safetensors import SafetensorsFile
from formats.bounds import attempt

Content = tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...], bytes]]]

# Bytes of eight numbers, by the name that the package takes for writing, and the name in the file.
DTYPES = {
    "float64": ("F64", 64), "float32": ("F32", 32), "float16": ("F16", 16), "bfloat16": ("BF16", 16),
    "int64": ("I64", 64), "int32": ("I32", 32), "int16": ("I16", 16), "int8": ("I8", 8),
    "uint64": ("U64", 64), "uint32": ("U32", 32), "uint16": ("U16", 16), "uint8": ("U8", 8),
    "bool": ("BOOL", 8), "complex64": ("C64", 64),
    "float8_e4m3fn": ("F8_E4M3", 8), "float8_e5m2": ("F8_E5M2", 8),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 8), "float8_e5m2fnuz": ("F8_E5M2FNUZ", 8),
    "float8_e8m0fnu": ("F8_E8M0", 8),
}  # fmt: skip


def written_by_the_package(
    dtype: str, shape: list[int], data: bytes, metadata: dict[str, str] | None = None
) -> bytes:
    buffer = ctypes.create_string_buffer(data, len(data))
    spec = safetensors.TensorSpec(
        dtype=dtype, shape=shape, data_ptr=ctypes.addressof(buffer), data_len=len(data)
    )
    content: bytes = safetensors.serialize({"tensor": spec}, metadata)
    return content


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file whose header is this object as JSON, or these very bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(
    begin: int = 0, end: int = 16, shape: object = (4,), dtype: object = "F32", **more: object
) -> Mapping[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def read_all(path: Path) -> Content:
    with SafetensorsFile(path) as file:
        metadata = {key: str(value) for key, value in file.metadata.items()}
        tensors = {
            name: (str(info.format.safetensors), info.shape, file.data(name).tobytes())
            for name, info in file.tensors.items()
        }
    return metadata, tensors


def tensors_by_the_package(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return {name: (each["dtype"], tuple(each["shape"]), bytes(each["data"])) for name, each in found}


@pytest.fixture(scope="module")
def sample() -> bytes:
    """Five tensors and metadata, by the package."""
    rng = np.random.default_rng(0)
    content: bytes = safetensors.numpy.save(
        {
            "model.embed.weight": rng.normal(size=(7, 4)).astype(np.float32),
            "model.layers.0.权重": rng.normal(size=(2, 3, 5)).astype(np.float16),
            "count": np.array(7, np.int64),
            "none": np.empty((0, 4), np.float32),
            "mask": np.array([True, False, True]),
        },
        {"format": "pt", "note": "玻璃"},
    )
    return content


def test_a_file_by_the_package(sample: bytes, tmp_path: Path) -> None:
    """Metadata, names, shapes, types and bytes, zero-dimensional and empty tensors included."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(sample)
    metadata, tensors = read_all(path)
    assert metadata == {"format": "pt", "note": "玻璃"}
    assert tensors == tensors_by_the_package(sample)
    assert tensors["count"][:2] == ("I64", ())
    assert tensors["none"] == ("F32", (0, 4), b"")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    name, bits = DTYPES[dtype]
    data = random.Random(0).randbytes(bits)  # eight numbers
    path = tmp_path / "a.safetensors"
    path.write_bytes(written_by_the_package(dtype, [2, 4], data))
    assert read_all(path)[1] == {"tensor": (name, (2, 4), data)}


@pytest.mark.parametrize(("name", "nbytes"), [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)])
def test_numbers_smaller_than_a_byte(name: str, nbytes: int, tmp_path: Path) -> None:
    """Known by size, though boli does not compute with them; a tensor must still end at a whole byte."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of({"a": entry(0, nbytes, [2, 4], name)}, bytes(nbytes)))
    with SafetensorsFile(path) as file:
        assert not file.tensors["a"].format.runnable
        assert file.tensors["a"].nbytes == nbytes
    path.write_bytes(file_of({"a": entry(0, nbytes, [7], name)}, bytes(nbytes)))
    with pytest.raises(CorruptFile, match="whole byte"):
        SafetensorsFile(path)


def test_data_is_a_read_only_view(sample: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sample)
    with SafetensorsFile(path) as file:
        data = file.data("model.embed.weight")
        assert (data.ndim, data.flags.owndata) == (1, False)
        assert data.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):
            data[0] = 1
    with pytest.raises(ValueError, match="closed"):
        file.data("model.embed.weight")


texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and name != "__metadata__"
)
shapes = st.lists(st.integers(0, 4), max_size=4)


@given(
    tensors=st.dictionaries(
        names, st.tuples(st.sampled_from(["f4", "f2", "i8", "u1", "?"]), shapes), max_size=6
    ),
    metadata=st.dictionaries(texts, texts, max_size=3),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str],
) -> None:
    """Whatever the package writes, we read.

    (With neither tensors nor metadata, but a dictionary for them, 0.8.0 writes `{},"__metadata__":{}}`.)
    """
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in tensors.items()}
    path = tmp_path_factory.getbasetemp() / "round-trip.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata or None)
    found_metadata, found = read_all(path)
    assert found_metadata == metadata
    assert {name: (shape, data) for name, (_, shape, data) in found.items()} == {
        name: (array.shape, array.tobytes()) for name, array in arrays.items()
    }


GOOD = entry()
F32_4 = bytes(16)

DAMAGE: dict[str, tuple[bytes, type[BoliError], str]] = {
    "empty": (b"", CorruptFile, "is empty"),
    "seven bytes": (bytes(7), CorruptFile, "has 7 bytes"),
    "header length 2^63": (file_of({"a": GOOD}, F32_4, 2**63), CorruptFile, "no safetensors file"),
    "header length 2^64 - 1": (file_of({"a": GOOD}, F32_4, 2**64 - 1), CorruptFile, "no safetensors file"),
    "header length 101 MB": (file_of({"a": GOOD}, F32_4, 101_000_000), CorruptFile, "claims 101,000,000"),
    "header longer than the file": (file_of({"a": GOOD}, F32_4, 1000), CorruptFile, "ends within the header"),
    "header length 0": (bytes(8) + b"{}", CorruptFile, "no safetensors file"),
    "a GGUF file": (b"GGUF\3\0\0\0" + bytes(60), CorruptFile, "GGUF file under another name"),
    "zip of pickles": (b"PK\3\4" + b"\x2d\0\x08\x08" + bytes(60), CorruptFile, "zip archive"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1", CorruptFile, "Git LFS"),
    "not JSON": (file_of(b"{nonsense}"), CorruptFile, "not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), CorruptFile, "not valid JSON"),
    "UTF-16": (file_of('{"a": 1}'.encode("utf-16")), CorruptFile, "no safetensors file"),
    "a list": (file_of([]), CorruptFile, "no safetensors file"),
    "more after the object": (file_of(b"{} {}"), CorruptFile, "not valid JSON"),
    "nested 100,000 deep": (
        file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        CorruptFile,
        "nested too deeply",
    ),
    "objects 100,000 deep": (
        file_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        CorruptFile,
        "nested too deeply",
    ),
    "262,000 objects": (file_of(b'{"a":[' + b"{}," * 262_000 + b"0]}"), CorruptFile, "lacks dtype"),
    "262,000 lists": (file_of(b'{"a":[' + b"[]," * 262_000 + b"0]}"), CorruptFile, "lacks dtype"),
    "a million numbers": (file_of(b'{"a":[' + b"9999999," * 1_000_000 + b"0]}"), CorruptFile, "lacks dtype"),
    "300,000 lists": (file_of(b'{"a":[' + b"[]," * 300_000 + b"0]}"), CorruptFile, "absurdly large"),
    "five million items": (file_of(b'{"a":[' + b"0," * 5_000_000 + b"0]}"), CorruptFile, "absurdly large"),
    "duplicate name": (
        file_of(b'{"a":%b,"a":%b}' % ((json.dumps(GOOD).encode(),) * 2), F32_4),
        CorruptFile,
        "'a' is there twice",
    ),
    "duplicate field": (
        file_of(b'{"a":{"dtype":"F32","shape":[4],"shape":[9],"data_offsets":[0,16]}}', F32_4),
        CorruptFile,
        "'shape' is there twice",
    ),
    "empty name": (file_of({"": GOOD}, F32_4), CorruptFile, "named ''"),
    "name with a terminal's escape": (file_of({"a\x1b[2J": GOOD}, F32_4), CorruptFile, r"a\\x1b\[2J"),
    "name with half a surrogate": (file_of(b'{"\\ud800":{}}'), CorruptFile, "named"),
    "name of 2,000 characters": (file_of({"a" * 2000: GOOD}, F32_4), CorruptFile, "named 'aaa"),
    "entry is a number": (file_of({"a": 1}), CorruptFile, "lacks dtype"),
    "no dtype": (file_of({"a": {"shape": [4], "data_offsets": [0, 16]}}, F32_4), CorruptFile, "lacks dtype"),
    "dtype is a number": (file_of({"a": entry(dtype=32)}, F32_4), CorruptFile, "makes no sense"),
    "unknown dtype": (file_of({"a": entry(dtype="F128")}, F32_4), UnsupportedModel, "'F128', of tensor 'a'"),
    "dtype lie": (file_of({"a": entry(dtype="F16")}, F32_4), CorruptFile, "needs 8"),
    "shape is a number": (file_of({"a": entry(shape=4)}, F32_4), CorruptFile, "makes no sense"),
    "negative size": (file_of({"a": entry(shape=[-4])}, F32_4), CorruptFile, "-4 is not a size"),
    "two negative sizes": (file_of({"a": entry(shape=[-2, -2])}, F32_4), CorruptFile, "not a size"),
    "fractional size": (file_of({"a": entry(shape=[4.0])}, F32_4), CorruptFile, "4.0 is not a size"),
    "size is true": (file_of({"a": entry(0, 4, shape=[True])}, bytes(4)), CorruptFile, "makes no sense"),
    "size is NaN": (file_of({"a": entry(shape=[float("nan")])}, F32_4), CorruptFile, "NaN is not a size"),
    "size of 5,000 digits": (
        file_of(b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,16]}}' % (b"9" * 5000), F32_4),
        CorruptFile,
        "not a size",
    ),
    "sizes wrap to a small product": (
        file_of({"a": entry(shape=[2**62, 4])}, F32_4),
        CorruptFile,
        "has 16 bytes",
    ),
    "17 dimensions": (file_of({"a": entry(0, 4, shape=[1] * 17)}, bytes(4)), CorruptFile, "17 dimensions"),
    "one offset": (file_of({"a": {**GOOD, "data_offsets": [0]}}, F32_4), CorruptFile, "makes no sense"),
    "offsets turned round": (file_of({"a": entry(16, 0)}, F32_4), CorruptFile, "has -16 bytes"),
    "end past the file": (file_of({"a": entry()}, bytes(15)), CorruptFile, "past its end"),
    "offsets far past the file": (file_of({"a": entry(2**60, 2**60 + 16)}, F32_4), CorruptFile, "hole"),
    "overlap": (file_of({"a": entry(), "b": entry(8, 24)}, bytes(24)), CorruptFile, "overlaps"),
    "same place": (file_of({"a": entry(), "b": entry()}, F32_4), CorruptFile, "overlaps"),
    "hole at the start": (file_of({"a": entry(4, 20)}, bytes(20)), CorruptFile, "hole before it"),
    "hole in the middle": (
        file_of({"a": entry(), "b": entry(20, 36)}, bytes(36)),
        CorruptFile,
        "hole before it",
    ),
    "more at the end": (file_of({"a": entry()}, bytes(17)), CorruptFile, "1 bytes at its end"),
    "metadata is a list": (file_of({"__metadata__": [1]}), CorruptFile, "__metadata__"),
    "metadata is not text": (file_of({"__metadata__": {"a": {"b": "c"}}}), CorruptFile, "__metadata__"),
    "metadata with half a surrogate": (
        file_of(b'{"__metadata__":{"a":"\\udc00"}}'),
        CorruptFile,
        "__metadata__",
    ),
}


@pytest.mark.parametrize("case", DAMAGE, ids=str)
def test_named_damage(case: str, tmp_path: Path) -> None:
    """The error has the right type, names the file and says what is wrong, in bounded time and memory."""
    content, kind, said = DAMAGE[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    error = attempt(lambda: read_all(path))
    assert type(error) is kind
    assert str(path) in error.message
    with pytest.raises(kind, match=said):
        raise error


def sound_or_refused(path: Path, content: bytes) -> bool:
    """Reads within bounds: an error of the right kind, or what the package reads from the same bytes."""
    path.write_bytes(content)
    result = attempt(lambda: read_all(path))
    if isinstance(result, BoliError):
        assert isinstance(result, FormatError | UnsupportedModel)
        assert str(path) in result.message
        return False
    assert result[1] == tensors_by_the_package(content)
    return True


def test_cut_off_at_every_byte(sample: bytes, tmp_path: Path) -> None:
    """A part of a file is never taken for the whole."""
    path = tmp_path / "cut.safetensors"
    for length in range(len(sample)):
        path.write_bytes(sample[:length])
        error = attempt(lambda: read_all(path))
        assert type(error) is CorruptFile, length
        assert error.remedy


def test_two_thousand_flipped_bits(sample: bytes, tmp_path: Path) -> None:
    """A typed error, or the very tensors that the package reads from the same bytes."""
    header = 8 + int.from_bytes(sample[:8], "little")
    chance = random.Random(20261122)
    accepted = 0
    for _ in range(2000):
        content = bytearray(sample)
        content[chance.randrange(header)] ^= 1 << chance.randrange(8)
        accepted += sound_or_refused(tmp_path / "flipped.safetensors", bytes(content))
    assert 200 < accepted < 1800  # both ends were really reached


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    field=st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]),
    value=json_values,
    length=st.integers(0, 32),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_json_in_any_field(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object, length: int
) -> None:
    """A header that is sound but for one field."""
    header = {"a": {**GOOD, field: value} if field in GOOD else GOOD, "__metadata__": {}}
    if field in header:
        header[field] = value  # type: ignore[assignment]
    sound_or_refused(tmp_path_factory.getbasetemp() / "json.safetensors", file_of(header, bytes(length)))


def test_a_file_that_shrinks_while_it_is_open(sample: bytes, tmp_path: Path) -> None:
    """Reading lost pages would kill the process with SIGBUS; the reader looks first, and says so."""
    path = tmp_path / "shrinks.safetensors"
    path.write_bytes(sample)
    with SafetensorsFile(path) as file:
        os.truncate(path, 0)
        with pytest.raises(CorruptFile, match="become shorter"):
            file.data("count")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        SafetensorsFile(tmp_path / "absent.safetensors")
