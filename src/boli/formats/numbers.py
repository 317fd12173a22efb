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
from typing import Final

import numpy as np
import numpy.typing as npt

from boli.errors import UnsupportedModel
from boli.formats import codebook, kquants, legacy
from boli.formats.table import NumberFormat, how_to_run_it

Bytes = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]

# Takes blocks apart: uint8 [n, block_bytes] -> int8 [n, block_size], and float32 [n, groups] once or
# twice. A format without minimums leaves the last argument alone.
Decoder = Callable[[Bytes, Int8, Float32, Float32], None]


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
        raise UnsupportedModel(f"boli does not compute with {fmt.name}", remedy=how_to_run_it())
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != fmt.nbytes(columns):
        raise ValueError(
            f"expected uint8 [rows, {fmt.nbytes(columns)}] for {columns} columns of {fmt.name}, "
            f"not {data.dtype} {list(data.shape)}"
        )
    return int(data.shape[0])


def _parts(blocks: int, block_size: int) -> Iterator[slice]:
    step = _AT_ONCE // block_size
    return (slice(start, start + step) for start in range(0, blocks, step))
