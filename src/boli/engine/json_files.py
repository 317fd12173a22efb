"""JSON that anybody may have written: read within bounds, and believed part by part."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar, cast

from boli.errors import CorruptFile, ModelNotFound

Kind = TypeVar("Kind")


class Taking:
    """Takes typed parts out of a run's record that anybody may have written.

    Args:
        document: What `json.loads` gave.
        source: What to call it in an error.

    Raises:
        CorruptFile: It is no object; or later, a part is not what it should be.
    """

    def __init__(self, document: object, source: str) -> None:
        self._source = source
        if not isinstance(document, dict):
            raise self.wrong("it is no JSON object")
        self.whole: dict[str, Any] = document

    def __call__(self, name: str, kind: type[Kind]) -> Kind:
        """One part of a certain type."""
        value = self.whole.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(f"{name!r} is missing or no {kind.__name__}")
        return value

    def numbers(self, name: str, kind: type[Kind], *, null: Kind | None = None) -> tuple[Kind, ...]:
        """A list of numbers of one kind; a whole number is a `float` too."""
        kinds = (int,) if kind is int else (int, float)
        values = [null if value is None else value for value in self(name, list)]
        if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
            raise self.wrong(f"{name!r} is no list of numbers")
        if kind is float and not all(value == null or _is_finite(cast("float", value)) for value in values):
            raise self.wrong(f"{name!r} has numbers that are too large")
        return tuple(kind(value) for value in values)  # type: ignore[call-arg]

    def all_numbers(self) -> dict[str, float]:
        """The whole, if all of it is numbers by name."""
        for name, value in self.whole.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not _is_finite(value):
                raise self.wrong(f"{name[:40]!r} is no number")
        return {name: float(value) for name, value in self.whole.items()}

    def wrong(self, why: str) -> CorruptFile:
        """The error for a part that is not as it should be."""
        return CorruptFile(
            f"{self._source} cannot be read as a run",
            cause=why,
            remedy="it was cut short, edited or written by another version: run the prompt again",
        )


def read_json(path: Path, largest: int) -> object:
    """A JSON file from outside: of bounded size, UTF-8, without NaN.

    Raises:
        ModelNotFound: There is no such file.
        CorruptFile: It is too large or no JSON.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise ModelNotFound(
            f"{path} cannot be opened", cause=error.strerror or str(error), remedy="check the path"
        ) from error
    if len(data) > largest:
        raise CorruptFile(f"{path.name} is too large to be read", cause=f"it has more than {largest:,} bytes")
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(
            f"{path.name} is no JSON",
            cause=f"{str(error)[:200]}; a file that was cut short looks like this",
            remedy="write it again",
        ) from error


def _is_finite(value: float) -> bool:
    """Whether a number is finite as a float; JSON's 1e999 is not, nor is a 1 with 400 zeros."""
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
