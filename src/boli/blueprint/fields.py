"""Reads single values out of a configuration that came from outside, and refuses absurd ones.

A configuration decides how much memory is asked for and how often loops run, so each of its
numbers is checked here, before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from boli.errors import CorruptFile, UnsupportedModel

# Generous: several times what any published model has; small enough that no sum of products of
# these numbers overflows 64 bits and that a list with an entry a layer stays small.
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "vocab_size": (1, 2**24),
    "hidden_size": (1, 2**17),
    "intermediate_size": (1, 2**20),
    "num_hidden_layers": (1, 1024),
    "num_attention_heads": (1, 4096),
    "num_key_value_heads": (1, 4096),
    "head_dim": (1, 4096),
    "max_position_embeddings": (1, 2**27),
    "sliding_window": (1, 2**31 - 1),
    "num_experts": (1, 2**16),
    "lora_rank": (1, 2**17),
    "layer_count": (0, 2**20),  # counts of layers that may exceed the number of layers
    "token_id": (-1, 2**31 - 1),  # -1 is how some files write "none"
    "norm_eps": (1e-12, 1e-1),
    "rope_theta": (1, 1e15),
    "rope_factor": (1e-3, 1e6),
    "attention_scalar": (1e-6, 1e6),
}
MAX_TOKEN_IDS: Final = 1024
RE_DOWNLOAD: Final = "the file is damaged or was edited wrongly; download the model again"


class Fields:
    """Named values, each read with its type and its bounds.

    A value of `None` (JSON's null) counts as absent.

    Args:
        values: The parsed `config.json`, or the metadata of a GGUF file.
        source: What to call it in errors.
        prefix: Put before every key, such as `llama.`.
    """

    def __init__(self, values: Mapping[str, object], *, source: str, prefix: str = "") -> None:
        self.values = values
        self.source = source
        self.prefix = prefix

    def get(self, key: str) -> object:
        """The value as it is, or None."""
        return self.values.get(self.prefix + key)

    def wrong(self, key: str, expected: str) -> CorruptFile:
        """An error that says what this field holds and what it should."""
        value = self.get(key)
        found = "is missing" if value is None else f"is {_shown(value)}"
        return CorruptFile(
            f"{self.source}: {self.prefix}{key} {found}", cause=f"expected {expected}", remedy=RE_DOWNLOAD
        )

    def integer(self, key: str, meaning: str, default: int | None = None) -> int:
        """A whole number within `BOUNDS[meaning]`; without a default it must be there.

        Raises:
            CorruptFile: It is missing, not a whole number, or out of bounds.
        """
        value = self.get(key)
        if value is None and default is not None:
            return default
        low, high = BOUNDS[meaning]
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def maybe_integer(self, key: str, meaning: str) -> int | None:
        """As `integer`, or None where it is absent."""
        return None if self.get(key) is None else self.integer(key, meaning)

    def number(self, key: str, meaning: str, default: float | None = None) -> float:
        """A finite number within `BOUNDS[meaning]`; without a default it must be there.

        Raises:
            CorruptFile: It is missing, not a number, not finite, or out of bounds.
        """
        value = self.get(key)
        if value is None and default is not None:
            return default
        low, high = BOUNDS[meaning]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def word(self, key: str, default: str) -> str:
        """A string."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def group(self, key: str) -> Fields | None:
        """A nested object, or None where it is absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object")
        return Fields(value, source=f"{self.source}: {self.prefix}{key}")

    def items(self, key: str, count: int) -> Sequence[object] | None:
        """A list of exactly `count` values, or None where it is absent."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != count:
            raise self.wrong(key, f"a list of {count}")
        return value

    def layers(self, key: str) -> frozenset[int]:
        """Numbers of layers given as a list; none where it is absent."""
        value = self.get(key)
        if value is None:
            return frozenset()
        high = BOUNDS["num_hidden_layers"][1]
        if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) > high:
            raise self.wrong(key, "a list of layers")
        if not all(type(item) is int and 0 <= item <= high for item in value):
            raise self.wrong(key, "a list of layers")
        return frozenset(value)

    def token_id(self, key: str) -> int | None:
        """A token id, or None where it is absent or -1."""
        value = self.maybe_integer(key, "token_id")
        return None if value == -1 else value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Token ids given as one number or as a list."""
        value = self.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            low, high = BOUNDS["token_id"]
            if len(value) > MAX_TOKEN_IDS:
                raise self.wrong(key, f"at most {MAX_TOKEN_IDS} token ids")
            if not all(type(item) is int and low <= item <= high for item in value):
                raise self.wrong(key, "token ids")
            return tuple(item for item in value if item != -1)
        single = self.token_id(key)
        return () if single is None else (single,)

    def refuse(self, features: Mapping[str, tuple[object, ...]]) -> None:
        """Refuses fields that ask for arithmetic which boli does not do.

        Args:
            features: For each field the values that mean "not used"; absent is always fine.

        Raises:
            UnsupportedModel: A field holds anything else.
        """
        for key, unused in features.items():
            value = self.get(key)
            if value is not None and not any(value == neutral for neutral in unused):
                raise self.unsupported(key)

    def unsupported(self, key: str, cause: str = "") -> UnsupportedModel:
        """An error that names the feature which boli does not run."""
        return UnsupportedModel(
            f"{self.source}: boli does not run {self.prefix}{key} = {_shown(self.get(key))}",
            cause=cause or "this field changes the model's arithmetic; ignoring it would give wrong text",
        )

    def require(self, holds: bool, key: str, expected: str) -> None:
        """Raises `CorruptFile` for this field unless the condition holds."""
        if not holds:
            raise self.wrong(key, expected)


def _shown(value: object, limit: int = 80) -> str:
    """A value for an error message: quoted and short, whatever it is."""
    if isinstance(value, Mapping):
        value = f"an object with {len(value)} fields"
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = f"a list of {len(value)}"
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        value = f"a number of about {math.log10(abs(value)):.0f} digits"
    else:
        value = repr(value)
    return value if len(value) <= limit else value[:limit] + "…"
