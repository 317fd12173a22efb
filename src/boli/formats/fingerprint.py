"""A short name for a model's files: so that a run finds the model that it was made with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

# Of each file this many places are read, of a page each, spread evenly: two models, or two formats of
# one, differ in nearly all of them. Reading it all would take longer than loading.
_PLACES: Final = 64
_BYTES: Final = 4096


def fingerprint(path: Path) -> str:
    """SHA-256 over the sizes of a model's files and 64 pages of each, as hexadecimal digits.

    It tells models apart; it does not tell whether somebody changed single weights. A replay does: its
    logits are no longer those of the run.

    Args:
        path: A GGUF file, or a folder with `config.json` and safetensors.

    Raises:
        OSError: A file cannot be read.
    """
    files = [path] if path.is_file() else [*sorted(path.glob("*.safetensors")), path / "config.json"]
    digest = hashlib.sha256()
    for each in files:
        size = each.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with each.open("rb") as file:
            for place in range(_PLACES):
                file.seek(max(0, size - _BYTES) * place // (_PLACES - 1))
                digest.update(file.read(_BYTES))
    return digest.hexdigest()
