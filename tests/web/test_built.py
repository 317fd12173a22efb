"""The built files in the package belong to the sources in `web/`.

`npm ci && npm run build` in `web/` writes both pages and, beside them, a hash of all sources. That the build
really gives these files is checked where Node is: CI builds again and compares.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"
BESIDE = ("package.json", "package-lock.json", "svelte.config.js", "tsconfig.json", "vite.config.ts")


def _sources_hash() -> str:
    sources = [path for path in (WEB / "src").rglob("*") if path.is_file()] + [WEB / name for name in BESIDE]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(WEB).as_posix(), path) for path in sources):
        content = path.read_bytes()
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("package", "folder"), [("boli.trace.page", "assets"), ("boli.server", "page")], ids=["trace", "server"]
)
def test_built_files_are_current(package: str, folder: str) -> None:
    built = files(package).joinpath(folder, "sources.sha256").read_text(encoding="ascii").strip()
    assert built == _sources_hash(), "run `npm ci && npm run build` in web/"


def test_the_lock_file_names_no_registry() -> None:
    lock = (WEB / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    assert "registry" not in lock
