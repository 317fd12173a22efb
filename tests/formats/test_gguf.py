"""The GGUF reader on sound files."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.formats.gguf import GGUFArray, GGUFFile
from formats import gguf_bytes as g
from formats.bounds import attempt


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.gguf"
    g.write_sample(path)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def decoded(value: object) -> object:
    return list(value) if isinstance(value, GGUFArray) else value


def test_metadata_of_every_type(sample: Path) -> None:
    with GGUFFile(sample) as file:
        assert file.version == 3
        found = {key: decoded(value) for key, value in file.metadata.items()}
    assert found == {
        "general.architecture": "llama",
        "t.uint8": 200,
        "t.int8": -100,
        "t.uint16": 60_000,
        "t.int16": -30_000,
        "t.uint32": 4_000_000_000,
        "t.int32": -2_000_000_000,
        "t.float32": float(np.float32(1e-5)),
        "t.bool": True,
        "t.string": "玻璃 is glass 🫙",
        "t.uint64": 2**63,
        "t.int64": -(2**62),
        "t.float64": 0.1,
        "t.strings": ["<s>", "", "▁the", "我爱", "🫙"],
        "t.ints": [3, -1, 2],
        "t.floats": [0.5, -1.25],
        "t.bools": [True, False, True],
    }
    assert found["t.bool"] is True


def test_tensors_equal_the_gguf_packages(sample: Path) -> None:
    """Names, types, shapes (outermost first), places and bytes."""
    theirs = gguf.GGUFReader(sample)
    with GGUFFile(sample) as file:
        assert list(file.tensors) == [tensor.name for tensor in theirs.tensors]
        assert file.tensors["cube"].shape == (2, 3, 4)
        assert file.tensors["Q8_0.weight"].shape == (2, 64)
        for tensor in theirs.tensors:
            info = file.tensors[tensor.name]
            assert info.format.name == tensor.tensor_type.name
            assert info.shape == tuple(reversed(tensor.shape.tolist()))
            assert (info.offset, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
            assert file.data(tensor.name).tobytes() == tensor.data.tobytes()


def test_data_is_a_read_only_view(sample: Path) -> None:
    with GGUFFile(sample) as file:
        data = file.data("half.weight")
        assert data.dtype == np.uint8
        assert (data.ndim, data.flags.owndata) == (1, False)
        with pytest.raises(ValueError, match="read-only"):
            data[0] = 1
        with pytest.raises(KeyError):
            file.data("no such tensor")


def test_arrays_are_sequences(tmp_path: Path) -> None:
    content = g.build(
        [
            g.entry("words", g.ARRAY, g.array(g.STRING, [g.string(word) for word in ("a", "", "玻璃")])),
            g.entry("sizes", g.ARRAY, g.array(g.UINT16, [struct.pack("<H", n) for n in (1, 2, 65535)])),
            g.entry("none", g.ARRAY, g.array(g.STRING, [])),
        ]
    )
    with GGUFFile(written(tmp_path / "a.gguf", content)) as file:
        words, sizes, none = file.metadata["words"], file.metadata["sizes"], file.metadata["none"]
        assert isinstance(words, GGUFArray)
        assert isinstance(sizes, GGUFArray)
        assert isinstance(none, GGUFArray)
        assert (len(words), words[0], words[-1], words[1:]) == (3, "a", "玻璃", ["", "玻璃"])
        assert (len(sizes), sizes[2], sizes[::2], sizes.index(2)) == (3, 65535, [1, 65535], 1)
        assert (len(none), list(none), none[:]) == (0, [], [])
        assert (words.item_type, sizes.item_type) == ("string", "uint16")
        assert repr(words) == "GGUFArray(3 × string)"
        assert "玻璃" in words
        with pytest.raises(IndexError, match="words has 3 items"):
            words[3]


def test_version_2_and_custom_alignment(tmp_path: Path) -> None:
    """The bytes of the first tensor begin at a multiple of the alignment; tensors may be in any order."""
    content = g.build(
        [g.entry("general.alignment", g.UINT32, g.u32(64))],
        [g.tensor("second", [2], offset=64), g.tensor("first", [1])],
        np.array([1.5] + [0] * 15 + [2.5, 3.5], "<f4").tobytes(),
        version=2,
        alignment=64,
    )
    with GGUFFile(written(tmp_path / "a.gguf", content)) as file:
        assert file.version == 2
        assert file.tensors["first"].offset % 64 == 0
        assert file.data("first").view("<f4").tolist() == [1.5]
        assert file.data("second").view("<f4").tolist() == [2.5, 3.5]


def test_no_tensors_and_no_metadata(tmp_path: Path) -> None:
    """A file may hold a vocabulary alone; then nothing follows the header, not even padding."""
    with GGUFFile(written(tmp_path / "a.gguf", g.build(alignment=1))) as file:
        assert (dict(file.metadata), dict(file.tensors)) == ({}, {})


def test_a_large_vocabulary_costs_little(tmp_path: Path) -> None:
    """262,144 tokens: opening neither decodes nor copies them, whether or not they are read later."""
    tokens = [f"token {number}" for number in range(1 << 18)]
    entries = [
        g.entry("tokens", g.ARRAY, g.array(g.STRING, [g.string(token) for token in tokens])),
        g.entry("scores", g.ARRAY, g.array(g.FLOAT32, [bytes(4)] * len(tokens))),
    ]
    path = written(tmp_path / "vocabulary.gguf", g.build(entries))
    file = attempt(lambda: GGUFFile(path))
    assert isinstance(file, GGUFFile)
    array = file.metadata["tokens"]
    assert isinstance(array, GGUFArray)
    assert len(array) == len(tokens)
    assert list(array) == tokens
    file.close()


def test_views_outlive_the_file_object(sample: Path) -> None:
    """`close` ends the mapping with its last view, so that views never point to nothing."""
    file = GGUFFile(sample)
    data = file.data("vector")
    expected = data.tobytes()
    file.close()
    file.close()
    assert data.tobytes() == expected
    with pytest.raises(ValueError, match="closed"):
        file.data("vector")
    with pytest.raises(ValueError, match="closed"):
        decoded(file.metadata["t.strings"])


def test_no_file_is_left_open(sample: Path) -> None:
    """Opening and closing, soundly or with an error, leaves no descriptor behind."""
    bad = written(sample.with_name("bad.gguf"), sample.read_bytes()[:-100])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in [sample, bad] * 20:
        file = attempt(functools.partial(GGUFFile, path))
        if isinstance(file, GGUFFile):
            file.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


scalars = st.one_of(
    st.tuples(st.just(g.UINT8), st.integers(0, 2**8 - 1), st.just("<B")),
    st.tuples(st.just(g.INT16), st.integers(-(2**15), 2**15 - 1), st.just("<h")),
    st.tuples(st.just(g.UINT32), st.integers(0, 2**32 - 1), st.just("<I")),
    st.tuples(st.just(g.INT64), st.integers(-(2**63), 2**63 - 1), st.just("<q")),
    st.tuples(st.just(g.FLOAT64), st.floats(allow_nan=False), st.just("<d")),
    st.tuples(st.just(g.FLOAT32), st.floats(allow_nan=False, width=32), st.just("<f")),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20).filter(
    lambda key: key not in {"general.alignment", "split.count"} and key.isprintable()
)


@given(
    numbers=st.dictionaries(keys.map("n.".__add__), scalars, max_size=5),
    strings=st.dictionaries(keys.map("s.".__add__), texts, max_size=5),
    lists=st.dictionaries(keys.map("l.".__add__), st.lists(texts, max_size=8), max_size=5),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_metadata_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: dict[str, tuple[int, float, str]],
    strings: dict[str, str],
    lists: dict[str, list[str]],
) -> None:
    """Whatever is written is read."""
    entries = [
        g.entry(key, kind, struct.pack(layout, value)) for key, (kind, value, layout) in numbers.items()
    ]
    entries += [g.entry(key, g.STRING, g.string(text)) for key, text in strings.items()]
    entries += [
        g.entry(key, g.ARRAY, g.array(g.STRING, list(map(g.string, items)))) for key, items in lists.items()
    ]
    path = written(tmp_path_factory.getbasetemp() / "round-trip.gguf", g.build(entries))
    with GGUFFile(path) as file:
        found = {key: decoded(value) for key, value in file.metadata.items()}
    assert found == {key: value for key, (_, value, _) in numbers.items()} | strings | lists
