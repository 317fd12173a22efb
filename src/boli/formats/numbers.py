"""Number formats: one table, and one definition of what each format's bits mean.

A *block format* stores each row in blocks of a few hundred bytes at most: small integers (quants)
and the scales, and for some formats minimums, that belong to them. `groups` takes the blocks apart,
    value = scale * quant + minimum        one rounding after the product, one after the sum, in float32
and this is the definition: `dequantize` evaluates it and gives the same bits as ggml's own
reference; the packed kernels start from the same groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from boli.errors import UnsupportedModel
from boli.formats import codebook, kquants, legacy

Bytes = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]

# Takes blocks apart: uint8 [n, block_bytes] -> int8 [n, block_size], and float32 [n, groups] once or
# twice. A format without minimums leaves the last argument alone.
Decoder = Callable[[Bytes, Int8, Float32, Float32], None]


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


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows of a block format, taken apart: `value = scale * quant + minimum`, exactly, in float32.

    Attributes:
        quants: int8 `[rows, columns]`. Within 0..3 (Q2_K), 0..15 (Q4_1, Q4_K), 0..31 (Q5_1, Q5_K),
            -4..3 (Q3_K), -8..7 (Q4_0), -16..15 (Q5_0), -32..31 (Q6_K), -128..127 (Q8_0),
            -127..113 (IQ4_NL, IQ4_XS), -12..12 (MXFP4).
        scales: float32 `[rows, columns // group_size]`.
        minimums: The same shape, or None where the format has none.
        group_size: How many consecutive columns share a scale, 16 or 32.
    """

    quants: Int8
    scales: Float32
    minimums: Float32 | None
    group_size: int


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

_DECODERS: Final[dict[str, Decoder]] = {
    "Q4_0": legacy.q4_0,
    "Q4_1": legacy.q4_1,
    "Q5_0": legacy.q5_0,
    "Q5_1": legacy.q5_1,
    "Q8_0": legacy.q8_0,
    "Q2_K": kquants.q2_k,
    "Q3_K": kquants.q3_k,
    "Q4_K": kquants.q4_k,
    "Q5_K": kquants.q5_k,
    "Q6_K": kquants.q6_k,
    "IQ4_NL": codebook.iq4_nl,
    "IQ4_XS": codebook.iq4_xs,
    "MXFP4": codebook.mxfp4,
}

# Where a block of 256 keeps the half-precision factors of its scales and of its minimums.
_FACTORS: Final = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
}

# Numbers decoded at a time: the working copies stay in the second-level cache, and need little memory.
_AT_ONCE: Final = 1 << 17


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
        remedy=_remedy(),
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
        remedy=_remedy(),
    )


def _remedy() -> str:
    names = ", ".join(f.name for f in FORMATS.values() if f.runnable)
    return f"use a version of the model in one of {names}"


def groups(data: Bytes, fmt: NumberFormat, columns: int) -> Groups:
    """Takes rows of a block format apart, exactly.

    Besides its result it needs a few hundred KB of memory, whatever the size of `data`.

    Args:
        data: uint8 `[rows, fmt.nbytes(columns)]`.
        fmt: A runnable block format.
        columns: Numbers in a row.

    Raises:
        UnsupportedModel: if boli does not compute with the format.
        ValueError: if the format has no groups (F32, F16, BF16), or `data` has another shape.
    """
    rows = _check(data, fmt, columns)
    if not fmt.group_size:
        raise ValueError(f"{fmt.name} is no block format")
    shape = (rows, columns // fmt.group_size)
    quants = np.empty((rows, columns), np.int8)
    scales = np.empty(shape, np.float32)
    minimums = np.empty(shape, np.float32) if fmt.has_minimum else None

    decode = _DECODERS[fmt.name]
    blocks = np.ascontiguousarray(data).reshape(-1, fmt.block_bytes)
    per_block = fmt.block_size // fmt.group_size
    out_quants = quants.reshape(-1, fmt.block_size)
    out_scales = scales.reshape(-1, per_block)
    out_minimums = out_scales if minimums is None else minimums.reshape(-1, per_block)
    with np.errstate(invalid="ignore"):  # damaged scales, such as infinity times 0, come out as NaN
        for part in _parts(len(blocks), fmt.block_size):
            decode(blocks[part], out_quants[part], out_scales[part], out_minimums[part])
    return Groups(quants, scales, minimums, fmt.group_size)


def factors(data: Bytes, fmt: NumberFormat, columns: int) -> npt.NDArray[np.float16]:
    """The half-precision numbers whose products with small integers are a K-quant's scales.

    Args:
        data: uint8 `[rows, fmt.nbytes(columns)]`.
        fmt: A format of blocks of 256 with such scales.
        columns: Numbers in a row.

    Returns:
        float16 `[1 or 2, rows, columns // 256]`: of the scales, and of the minimums negated.

    Raises:
        KeyError: if the format has no such factors.
        UnsupportedModel, ValueError: as `groups`.
    """
    rows = _check(data, fmt, columns)
    blocks = np.ascontiguousarray(data).reshape(rows, -1, fmt.block_bytes)
    return np.stack([blocks[..., at : at + 2].copy().view("<f2")[..., 0] for at in _FACTORS[fmt.name]])


def dequantize(data: Bytes, fmt: NumberFormat, columns: int) -> Float32:
    """The numbers that the bits stand for.

    Args:
        data: uint8 `[rows, fmt.nbytes(columns)]`.
        fmt: A runnable format.
        columns: Numbers in a row.

    Returns:
        float32 `[rows, columns]`, a new array. NaN and infinity in the file stay what they are.

    Raises:
        UnsupportedModel: if boli does not compute with the format.
        ValueError: if `data` has another shape.
    """
    rows = _check(data, fmt, columns)
    out = np.empty((rows, columns), np.float32)
    if not fmt.group_size:
        _widen(np.ascontiguousarray(data).reshape(-1), fmt, out.reshape(-1))
        return out
    blocks = np.ascontiguousarray(data).reshape(-1, fmt.block_bytes)
    flat = out.reshape(len(blocks), fmt.block_size // fmt.group_size, fmt.group_size)
    for part in _parts(len(blocks), fmt.block_size):
        taken = groups(blocks[part], fmt, fmt.block_size)
        values = flat[part]
        with np.errstate(invalid="ignore", over="ignore"):  # MXFP4's largest scale reaches infinity
            np.multiply(taken.quants.reshape(values.shape), taken.scales[:, :, None], out=values)
            if taken.minimums is not None:
                values += taken.minimums[:, :, None]
    return out


def _widen(data: Bytes, fmt: NumberFormat, out: Float32) -> None:
    """Plain floating-point numbers as float32; every 16-bit one has an exact float32."""
    if fmt.name == "F32":
        out[:] = data.view("<f4")
    elif fmt.name == "F16":
        with np.errstate(invalid="ignore"):  # signalling NaN
            out[:] = data.view("<f2")
    else:  # BF16 is the upper half of a float32
        np.left_shift(data.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _check(data: Bytes, fmt: NumberFormat, columns: int) -> int:
    """The number of rows, after a look at type and shape."""
    if not fmt.runnable:
        raise UnsupportedModel(f"boli does not compute with {fmt.name}", remedy=_remedy())
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != fmt.nbytes(columns):
        raise ValueError(
            f"expected uint8 [rows, {fmt.nbytes(columns)}] for {columns} columns of {fmt.name}, "
            f"not {data.dtype} {list(data.shape)}"
        )
    return int(data.shape[0])


def _parts(blocks: int, block_size: int) -> Iterator[slice]:
    step = _AT_ONCE // block_size
    return (slice(start, start + step) for start in range(0, blocks, step))
