"""Folders as the libraries of the hubs leave them in their caches, made by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sources.fake_hubs import COMMIT

MODEL = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": b"weights" * 100}


def hf_snapshot(
    cache: Path,
    repo: str,
    files: dict[str, bytes] | None = None,
    commit: str = COMMIT,
    refs: tuple[str, ...] = ("main",),
) -> Path:
    """`refs`, `blobs` and `snapshots` of one commit; returns the snapshot."""
    folder = cache / ("models--" + repo.replace("/", "--"))
    snapshot = folder / "snapshots" / commit
    for ref in refs:
        path = folder / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    for name, body in (MODEL if files is None else files).items():
        blob = folder / "blobs" / hashlib.sha256(body).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(body)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def plain_folder(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """Files without links, as ModelScope's library keeps them."""
    for name, body in (MODEL if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder
