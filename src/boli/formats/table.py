"""The tables of number formats: names, sizes of blocks, numbers in files; codebooks. Without NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from boli.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How numbers are stored.

    Attributes:
        name: ggml's name, or safetensors' for what ggml does not have.
        block_size: How many numbers of a row make a block; 1 for plain numbers.
        block_bytes: Bytes of a block.
        ggml_type: The type's number in GGUF files, or None.
        safetensors: The dtype's name in safetensors files, or None.
        runnable: Whether boli computes with it. Others are known, so that errors can name them.
        group_size: How many numbers share a scale, 16 or 32; 0 if it is not a block format that
            boli computes with.
        has_minimum: Whether a group has a minimum besides its scale.
    """

    name: str
    block_size: int
    block_bytes: int
    ggml_type: int | None
    safetensors: str | None
    runnable: bool
    group_size: int = 0
    has_minimum: bool = False

    def nbytes(self, columns: int) -> int:
        """Bytes of one row.

        Raises:
            ValueError: if `columns` does not divide into whole blocks.
        """
        if columns % self.block_size:
            raise ValueError(
                f"{columns} columns are no whole number of {self.name} blocks of {self.block_size}"
            )
        return columns // self.block_size * self.block_bytes


# The 16 integers that 4 bits choose from.
CODEBOOKS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        # Spaced more densely around zero, where most weights are.
        "iq4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
        # The numbers of E2M1 (OCP Microscaling Formats 1.0), doubled so that they are integers.
        "e2m1": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
    }
)

_LIST: Final = (
    # name, numbers and bytes of a block, number in GGUF, name in safetensors, runnable, group, minimum
    NumberFormat("F32", 1, 4, 0, "F32", True),
    NumberFormat("F16", 1, 2, 1, "F16", True),
    NumberFormat("BF16", 1, 2, 30, "BF16", True),
    NumberFormat("Q4_0", 32, 18, 2, None, True, 32),
    NumberFormat("Q4_1", 32, 20, 3, None, True, 32, True),
    NumberFormat("Q5_0", 32, 22, 6, None, True, 32),
    NumberFormat("Q5_1", 32, 24, 7, None, True, 32, True),
    NumberFormat("Q8_0", 32, 34, 8, None, True, 32),
    NumberFormat("Q2_K", 256, 84, 10, None, True, 16, True),
    NumberFormat("Q3_K", 256, 110, 11, None, True, 16),
    NumberFormat("Q4_K", 256, 144, 12, None, True, 32, True),
    NumberFormat("Q5_K", 256, 176, 13, None, True, 32, True),
    NumberFormat("Q6_K", 256, 210, 14, None, True, 16),
    NumberFormat("IQ4_NL", 32, 18, 20, None, True, 32),
    NumberFormat("IQ4_XS", 256, 136, 23, None, True, 32),
    NumberFormat("MXFP4", 32, 17, 39, None, True, 32),
    NumberFormat("Q8_K", 256, 292, 15, None, False),
    NumberFormat("IQ2_XXS", 256, 66, 16, None, False),
    NumberFormat("IQ2_XS", 256, 74, 17, None, False),
    NumberFormat("IQ3_XXS", 256, 98, 18, None, False),
    NumberFormat("IQ1_S", 256, 50, 19, None, False),
    NumberFormat("IQ3_S", 256, 110, 21, None, False),
    NumberFormat("IQ2_S", 256, 82, 22, None, False),
    NumberFormat("IQ1_M", 256, 56, 29, None, False),
    NumberFormat("TQ1_0", 256, 54, 34, None, False),
    NumberFormat("TQ2_0", 256, 66, 35, None, False),
    NumberFormat("NVFP4", 64, 36, 40, None, False),
    NumberFormat("Q1_0", 128, 18, 41, None, False),
    NumberFormat("I8", 1, 1, 24, "I8", False),
    NumberFormat("I16", 1, 2, 25, "I16", False),
    NumberFormat("I32", 1, 4, 26, "I32", False),
    NumberFormat("I64", 1, 8, 27, "I64", False),
    NumberFormat("F64", 1, 8, 28, "F64", False),
    NumberFormat("BOOL", 1, 1, None, "BOOL", False),
    NumberFormat("U8", 1, 1, None, "U8", False),
    NumberFormat("U16", 1, 2, None, "U16", False),
    NumberFormat("U32", 1, 4, None, "U32", False),
    NumberFormat("U64", 1, 8, None, "U64", False),
    NumberFormat("C64", 1, 8, None, "C64", False),
    NumberFormat("F8_E4M3", 1, 1, None, "F8_E4M3", False),
    NumberFormat("F8_E4M3FNUZ", 1, 1, None, "F8_E4M3FNUZ", False),
    NumberFormat("F8_E5M2", 1, 1, None, "F8_E5M2", False),
    NumberFormat("F8_E5M2FNUZ", 1, 1, None, "F8_E5M2FNUZ", False),
    NumberFormat("F8_E8M0", 1, 1, None, "F8_E8M0", False),
    NumberFormat("F6_E2M3", 4, 3, None, "F6_E2M3", False),
    NumberFormat("F6_E3M2", 4, 3, None, "F6_E3M2", False),
    NumberFormat("F4", 2, 1, None, "F4", False),
)
FORMATS: Final = MappingProxyType({each.name: each for each in _LIST})
_BY_GGML_TYPE: Final = {f.ggml_type: f for f in FORMATS.values() if f.ggml_type is not None}
_BY_SAFETENSORS: Final = {f.safetensors: f for f in FORMATS.values() if f.safetensors is not None}

# Numbers that once stood for a type, or stand for one that never reaches a file: errors name them.
_WITHDRAWN: Final = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


def by_ggml_type(number: int) -> NumberFormat:
    """The format with this number in GGUF files.

    Raises:
        UnsupportedModel: if boli does not know the number, or knows it as withdrawn.
    """
    found = _BY_GGML_TYPE.get(number)
    if found is not None:
        return found
    name = _WITHDRAWN.get(number)
    raise UnsupportedModel(
        f"tensor type {number} ({name}) is not supported" if name else f"unknown tensor type {number}",
        cause="the type was withdrawn from GGUF" if name else "the file is damaged, or newer than boli",
        remedy=how_to_run_it(),
    )


def by_safetensors(name: str) -> NumberFormat:
    """The format with this dtype name in safetensors files.

    Raises:
        UnsupportedModel: if boli does not know the name.
    """
    found = _BY_SAFETENSORS.get(name)
    if found is not None:
        return found
    raise UnsupportedModel(
        f"unknown tensor type {name[:40]!r}",
        cause="the file is damaged, or newer than boli",
        remedy=how_to_run_it(),
    )


def how_to_run_it() -> str:
    """What to do about a format that boli does not compute with."""
    names = ", ".join(f.name for f in FORMATS.values() if f.runnable)
    return f"use a version of the model in one of {names}"
