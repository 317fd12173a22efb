"""The fingerprint tells models apart, whichever form they are stored in."""

from __future__ import annotations

from pathlib import Path

from boli.formats.fingerprint import fingerprint


def test_it_depends_on_the_files_and_on_nothing_else(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    one.write_bytes(data)
    other.write_bytes(data)
    assert fingerprint(one) == fingerprint(other)
    assert len(fingerprint(one)) == 64
    other.write_bytes(data + b"x")
    assert fingerprint(one) != fingerprint(other)
    for place in (0, len(data) - 1):
        other.write_bytes(data[:place] + b"!" + data[place + 1 :])
        assert fingerprint(one) != fingerprint(other), place


def test_a_folder_is_its_weights_and_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-1.safetensors").write_bytes(b"abc")
    first = fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert fingerprint(tmp_path) == first
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    second = fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert len({first, second, fingerprint(tmp_path)}) == 3
