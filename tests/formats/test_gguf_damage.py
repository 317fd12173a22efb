"""The GGUF reader on files that are damaged, lie, or are something else.

Each must end in an error of the right type that says where and why, in under a second and 64 MB.
"""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import BoliError, CorruptFile, FormatError, ModelNotFound, UnsupportedModel
from boli.formats.gguf import GGUFArray, GGUFFile
from formats import gguf_bytes as g
from formats.bounds import attempt, in_time

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


def read_all(path: Path) -> tuple[dict[str, object], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Everything that a file holds: metadata, and type, shape and bytes of each tensor."""
    with GGUFFile(path) as file:
        metadata = {
            key: list(value) if isinstance(value, GGUFArray) else value
            for key, value in file.metadata.items()
        }
        stored = {
            name: (info.format.name, info.shape, file.data(name).tobytes())
            for name, info in file.tensors.items()
        }
    return metadata, stored


def read_all_with_gguf(path: Path) -> tuple[dict[str, object], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """The same by the `gguf` package, which may only see files that were found sound."""
    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    stored = {
        each.name: (each.tensor_type.name, tuple(reversed(each.shape.tolist())), each.data.tobytes())
        for each in reader.tensors
    }
    return metadata, stored


@pytest.mark.parametrize("case", DAMAGE, ids=str)
def test_named_damage(case: str, tmp_path: Path) -> None:
    """The error has the right type, names the file and says what is wrong."""
    content, kind, said = DAMAGE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    error = attempt(lambda: read_all(path))
    assert type(error) is kind
    assert str(path) in error.message
    with pytest.raises(kind, match=said):
        raise error


def sound_or_refused(path: Path) -> bool:
    """Reads a file within bounds: an error of the right kind, or what the `gguf` package reads from it."""
    result = attempt(lambda: read_all(path))
    if isinstance(result, BoliError):
        assert isinstance(result, FormatError | UnsupportedModel)
        assert str(path) in result.message
        return False
    assert repr(result) == repr(read_all_with_gguf(path))  # repr, as NaN is not equal to itself
    return True


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "sample.gguf"
    g.write_sample(path)
    return path.read_bytes()


def test_cut_off_at_every_byte(sample: bytes, tmp_path: Path) -> None:
    """However much of the file is there, a part of it is never taken for the whole."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(sample)
    with GGUFFile(path) as file:
        end = max(info.offset + info.nbytes for info in file.tensors.values())
    for length in range(end):
        path.write_bytes(sample[:length])
        error = attempt(lambda: read_all(path))
        assert type(error) is CorruptFile, length
        assert error.remedy


def test_two_thousand_flipped_bits(sample: bytes, tmp_path: Path) -> None:
    """A typed error, or the very content that the `gguf` package reads from the same bytes."""
    path = tmp_path / "flipped.gguf"
    path.write_bytes(sample)
    with GGUFFile(path) as file:
        header = min(info.offset for info in file.tensors.values())
    chance = random.Random(20261122)
    accepted = 0
    for _ in range(2000):
        content = bytearray(sample)
        content[chance.randrange(header)] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        accepted += sound_or_refused(path)
    assert 200 < accepted < 1800  # both ends were really reached


@pytest.mark.parametrize("value", [0, 2**31, 2**63 - 1, 2**64 - 1])
def test_extreme_numbers_everywhere(sample: bytes, tmp_path: Path, value: int) -> None:
    """Eight bytes overwritten at every place: every count, length, size, type and offset is hit."""
    path = tmp_path / "overwritten.gguf"
    path.write_bytes(sample)
    with GGUFFile(path) as file:
        header = min(info.offset for info in file.tensors.values())
    for place in range(header - 8):
        path.write_bytes(sample[:place] + g.u64(value) + sample[place + 8 :])
        sound_or_refused(path)


@given(data=st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_stretch_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, sample: bytes, data: st.DataObject
) -> None:
    """As a faulty download leaves it."""
    first, second = data.draw(st.tuples(*[st.integers(0, len(sample))] * 2))
    path = tmp_path_factory.getbasetemp() / "spliced.gguf"
    path.write_bytes(sample[:first] + sample[second:])
    sound_or_refused(path)


@given(content=st.binary(max_size=300), version=st.sampled_from([2, 3]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_noise(tmp_path_factory: pytest.TempPathFactory, content: bytes, version: int) -> None:
    """Random bytes behind a sound beginning."""
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(b"GGUF" + g.u32(version) + content)
    sound_or_refused(path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        pytest.param(
            g.entry("a", g.ARRAY, g.array(g.STRING, [], 10_000_000)),
            "limit is 4,194,304",
            id="ten million strings",
        ),
        pytest.param(
            g.entry("a", g.STRING, g.u64(100_000_000)), "claims to be 100,000,000", id="a long string"
        ),
        pytest.param(
            b"".join(
                g.entry(f"k{n}", g.STRING, g.u64(60_000_000) + bytes(60_000_000 * (n < 1))) for n in range(2)
            ),
            "value of 'k1' claims",
            id="two strings, long together",
        ),
    ],
)
def test_large_files_need_no_more(start: bytes, said: str, tmp_path: Path) -> None:
    """A file of 200 MB, where counts of this size do fit: limits of our own hold time and memory down."""
    path = tmp_path / "large.gguf"
    path.write_bytes(g.build([start], entry_count=9, alignment=1))
    os.truncate(path, 200_000_000)  # zeros that take no room on the disk
    error = attempt(lambda: read_all(path))
    assert type(error) is CorruptFile
    with pytest.raises(CorruptFile, match=said):
        raise error


def test_four_million_strings(tmp_path: Path) -> None:
    """As many strings as are allowed can be walked over in the time that is allowed."""
    path = tmp_path / "large.gguf"
    path.write_bytes(g.build([g.entry("a", g.ARRAY, g.array(g.STRING, [], 1 << 22))], alignment=1))
    os.truncate(path, 200_000_000)
    file = in_time(lambda: GGUFFile(path))
    assert isinstance(file, GGUFFile)
    file.close()


def test_text_that_is_read_later(tmp_path: Path) -> None:
    """Items of arrays are checked when they are decoded: the error is the same kind, and names the key."""
    path = tmp_path / "bad.gguf"
    for kind, items, said in [
        (g.STRING, [g.string("good"), g.string(b"\xc3")], "string in 'words' is not UTF-8"),
        (g.BOOL, [b"\0", b"\7"], "bool in 'words' is neither"),
    ]:
        path.write_bytes(g.build([g.entry("words", g.ARRAY, g.array(kind, items))]))
        with GGUFFile(path) as file:
            words = file.metadata["words"]
            assert isinstance(words, GGUFArray)
            with pytest.raises(CorruptFile, match=said):
                list(words)


def test_a_big_endian_file(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    g.write_sample(path, gguf.GGUFEndian.BIG)
    with pytest.raises(UnsupportedModel, match="big-endian"):
        GGUFFile(path)


@pytest.mark.parametrize("left", [0, 100, 0.5])
def test_a_file_that_shrinks_while_it_is_open(sample: bytes, tmp_path: Path, left: float) -> None:
    """Reading lost pages would kill the process with SIGBUS; the reader looks first, and says so."""
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(sample + bytes(1 << 20))
    with GGUFFile(path) as file:
        words = file.metadata["t.strings"]
        assert isinstance(words, GGUFArray)
        os.truncate(path, int(left * len(sample)) if left < 1 else int(left))
        with pytest.raises(CorruptFile, match="become shorter"):
            file.data("cube")
        with pytest.raises(CorruptFile, match="become shorter"):
            list(words)


def test_a_file_that_is_replaced_while_it_is_open(sample: bytes, tmp_path: Path) -> None:
    """A new file under the same name, as downloads are finished, does not disturb the old one's tensors."""
    path = tmp_path / "model.gguf"
    path.write_bytes(sample)
    before = read_all(path)
    with GGUFFile(path) as file:
        other = tmp_path / "new"
        other.write_bytes(b"short")
        other.rename(path)
        assert file.data("cube").tobytes() == before[1]["cube"][2]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        GGUFFile(tmp_path / "absent.gguf")
    with pytest.raises(FormatError, match="is not a file"):
        GGUFFile(tmp_path)
    with pytest.raises(FormatError, match="cannot open"):
        GGUFFile(tmp_path / "nul\0.gguf")
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(FormatError, match="is not a file"):  # and does not wait for a writer
        GGUFFile(pipe)
