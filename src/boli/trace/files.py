"""Traces in files: written in one piece with a seal, and read as if anybody had written them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from boli.engine.json_files import read_json
from boli.engine.record import SCHEMA as RUN_SCHEMA
from boli.engine.whole_file import write_whole
from boli.errors import CorruptFile
from boli.trace.document import SCHEMA
from boli.trace.schema import check_document

#: A trace is read only if its file is no larger: what the most arrays take in base64, and text.
LARGEST_FILE: Final = 192 << 20


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with the digest of all the rest of it, so that a change is found."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return rest | {"digest": _digest(rest)}


def save_document(document: Mapping[str, Any], path: Path) -> None:
    """Writes a sealed document.

    Raises:
        StorageError: It could not be written; no half file is left.
    """
    write_whole(path, json.dumps(sealed(document), ensure_ascii=False, allow_nan=False) + "\n", "the trace")


def load_document(path: Path) -> dict[str, Any]:
    """Reads and checks a document.

    Raises:
        ModelNotFound: There is no such file.
        CorruptFile: It is no trace, of another version, too large, cut short or edited.
    """
    return checked(read_json(path, LARGEST_FILE), path.name)


def checked(document: object, name: str) -> dict[str, Any]:
    """A document that is whole, unchanged, and of the version that this boli reads.

    Raises:
        CorruptFile: It is not.
    """
    if not isinstance(document, dict) or not isinstance(document.get("schema"), str):
        raise CorruptFile(f"{name} is no trace", remedy="a trace is written by boli trace PROMPT --json")
    schema = document["schema"]
    if schema == RUN_SCHEMA:
        raise CorruptFile(f"{name} is a run, not a trace of it", remedy=f"replay it with: boli trace {name}")
    if schema != SCHEMA:
        raise CorruptFile(
            f"{name} is a trace of another version: {schema[:40]!r}",
            cause=f"this boli reads {SCHEMA!r}" + _writer(document),
            remedy="trace the run again",
        )
    if sealed(document)["digest"] != document.get("digest"):
        raise CorruptFile(
            f"{name} was changed after it was written",
            cause="its contents do not have the digest that it names",
            remedy="trace the run again",
        )
    check_document(document, name)
    return document


def _writer(document: dict[str, Any]) -> str:
    """Which version of boli wrote the file, if it says so."""
    version = document.get("boli")
    return f"; boli {version[:20]} wrote the file" if isinstance(version, str) else ""


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()
