"""The GGUF reader on files that are damaged, lie, or are something else.

Each must end in an error of the right type that says where and why, in under a second and 64 MB.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import BoliError, CorruptFile, FormatError, ModelNotFound, UnsupportedModel
from boli.formats.gguf import GGUFArray, GGUFFile
from formats import gguf_bytes as g
from formats.bounds import attempt, in_time
from formats.gguf_damage import DAMAGE


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
