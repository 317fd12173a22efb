"""The number formats, against the `gguf` package's reference and against their own definition."""

from __future__ import annotations

import tracemalloc

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import UnsupportedModel
from boli.formats.numbers import dequantize, groups
from boli.formats.table import FORMATS, NumberFormat, by_ggml_type, by_safetensors

RUNNABLE = [fmt for fmt in FORMATS.values() if fmt.runnable]
BLOCKS = [fmt for fmt in RUNNABLE if fmt.block_size > 1]

# Where each block format keeps half-precision scales, in bytes from the start of a block.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "MXFP4": (),
}  # fmt: skip

RANGES = {
    "Q4_0": (-8, 7), "Q4_1": (0, 15), "Q5_0": (-16, 15), "Q5_1": (0, 31), "Q8_0": (-128, 127),
    "Q2_K": (0, 3), "Q3_K": (-4, 3), "Q4_K": (0, 15), "Q5_K": (0, 31), "Q6_K": (-32, 31),
    "IQ4_NL": (-127, 113), "IQ4_XS": (-127, 113), "MXFP4": (-12, 12),
}  # fmt: skip

by_name = pytest.mark.parametrize("fmt", RUNNABLE, ids=lambda fmt: fmt.name)
each_block_format = pytest.mark.parametrize("fmt", BLOCKS, ids=lambda fmt: fmt.name)


def random_bytes(
    fmt: NumberFormat, rows: int, columns: int, *, finite: bool, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Rows of random bits; with `finite`, scales are finite numbers."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, fmt.nbytes(columns)), dtype=np.uint8)
    if finite and fmt.block_size > 1:
        blocks = data.reshape(-1, fmt.block_bytes)
        for offset in HALVES[fmt.name]:
            scales = rng.normal(scale=0.01, size=(len(blocks), 1)).astype("<f2")
            blocks[:, offset : offset + 2] = scales.view(np.uint8)
        if fmt.name == "MXFP4":
            blocks[:, 0] %= 250
    elif finite:
        numbers = rng.normal(size=(rows, columns)).astype("<f4" if fmt.name == "F32" else "<f2")
        data = numbers.view(np.uint8)
    return data


def reference(data: npt.NDArray[np.uint8], fmt: NumberFormat) -> npt.NDArray[np.float32]:
    assert fmt.ggml_type is not None
    with np.errstate(all="ignore"):
        values: npt.NDArray[np.float32] = gguf.quants.dequantize(
            data, gguf.GGMLQuantizationType(fmt.ggml_type)
        )
    return values


def assert_same_bits(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> None:
    """Equal bit for bit, signed zeros included; a NaN equals any NaN, whose sign and payload mean nothing."""
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all(), f"{np.count_nonzero(~same)} of {same.size} differ"


@by_name
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (7, 768), (3, 11 * 256), (33, 512)])
def test_dequantize_is_bit_exact_with_gguf(fmt: NumberFormat, rows: int, columns: int) -> None:
    data = random_bytes(fmt, rows, columns, finite=True, seed=rows)
    ours = dequantize(data, fmt, columns)
    assert np.isfinite(ours).all()
    assert ours.tobytes() == reference(data, fmt).tobytes()


@by_name
def test_dequantize_is_bit_exact_on_any_bits(fmt: NumberFormat) -> None:
    """Scales and numbers that are infinite, subnormal or NaN included."""
    data = random_bytes(fmt, 64, 4096, finite=False)
    assert_same_bits(dequantize(data, fmt, 4096), reference(data, fmt))


@each_block_format
def test_every_pattern_of_a_scale(fmt: NumberFormat) -> None:
    """All 65,536 half floats (every 13th for the large blocks) as each scale; all 256 scales of MXFP4."""
    patterns = np.arange(0, 1 << 16, 1 if fmt.block_size == 32 else 13, dtype="<u2")
    for offset in HALVES[fmt.name]:
        data = random_bytes(fmt, len(patterns), fmt.block_size, finite=True)
        data[:, offset : offset + 2] = patterns[:, None].view(np.uint8)
        assert_same_bits(dequantize(data, fmt, fmt.block_size), reference(data, fmt))
    if fmt.name == "MXFP4":
        data = random_bytes(fmt, 256, 32, finite=True)
        data[:, 0] = np.arange(256)
        assert_same_bits(dequantize(data, fmt, 32), reference(data, fmt))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_16_bit_number(name: str) -> None:
    data = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(4, -1)
    assert_same_bits(dequantize(data, FORMATS[name], 1 << 14), reference(data, FORMATS[name]))


@each_block_format
def test_groups_are_the_exact_factors(fmt: NumberFormat) -> None:
    """`scale * quant + minimum`, rounded to float32 after each operation, is the value bit for bit."""
    data = random_bytes(fmt, 5, 1024, finite=True)
    taken = groups(data, fmt, 1024)

    assert taken.group_size == fmt.group_size == (16 if fmt.name in {"Q2_K", "Q3_K", "Q6_K"} else 32)
    assert taken.quants.shape == (5, 1024)
    assert taken.quants.dtype == np.int8
    assert taken.scales.shape == (5, 1024 // taken.group_size)
    assert taken.scales.dtype == np.float32
    assert (taken.minimums is not None) == fmt.has_minimum

    per_number = np.repeat(taken.scales, taken.group_size, axis=1)
    values = per_number * taken.quants.astype(np.float32)
    if taken.minimums is not None:
        assert taken.minimums.shape == taken.scales.shape
        values = values + np.repeat(taken.minimums, taken.group_size, axis=1)
    assert values.tobytes() == reference(data, fmt).tobytes()


@each_block_format
def test_quants_fill_their_range(fmt: NumberFormat) -> None:
    """The documented bounds, which the packed layouts rely on, are reached and not left."""
    quants = groups(random_bytes(fmt, 64, 4096, finite=True), fmt, 4096).quants
    assert (quants.min(), quants.max()) == RANGES[fmt.name]


def test_a_block_by_hand() -> None:
    """Q4_1: scale 0.5, minimum -1, low nibbles first. No other implementation involved."""
    block = np.array([[*np.float16(0.5).tobytes(), *np.float16(-1).tobytes(), 0xF0, *[0x21] * 15]], np.uint8)
    expected = [0 * 0.5 - 1] + [1 * 0.5 - 1] * 15 + [15 * 0.5 - 1] + [2 * 0.5 - 1] * 15
    assert dequantize(block, FORMATS["Q4_1"], 32).tolist() == [expected]


@each_block_format
def test_data_may_lie_anywhere(fmt: NumberFormat) -> None:
    """Some rows of a larger matrix, rows in another order, and an odd address give the same numbers."""
    data = random_bytes(fmt, 8, 512, finite=True)
    expected = dequantize(data, fmt, 512)
    assert dequantize(data[2:5], fmt, 512).tobytes() == expected[2:5].tobytes()
    assert dequantize(data[::2], fmt, 512).tobytes() == expected[::2].tobytes()
    assert dequantize(data[[3, 0, 7]], fmt, 512).tobytes() == expected[[3, 0, 7]].tobytes()
    shifted = np.empty(data.size + 1, np.uint8)[1:].reshape(data.shape)
    shifted[:] = data
    shifted.flags.writeable = False
    assert dequantize(shifted, fmt, 512).tobytes() == expected.tobytes()
    wide = np.zeros((8, data.shape[1] + 6), np.uint8)
    wide[:, 3:-3] = data
    assert dequantize(wide[:, 3:-3], fmt, 512).tobytes() == expected.tobytes()


@by_name
def test_rows_are_independent_of_their_neighbours(fmt: NumberFormat) -> None:
    """A matrix that is decoded in many parts equals its rows decoded one by one."""
    columns = 3 * 256
    data = random_bytes(fmt, 700, columns, finite=True)
    whole = dequantize(data, fmt, columns)
    for row in (0, 169, 170, 171, 341, 699):
        assert whole[row].tobytes() == dequantize(data[row : row + 1], fmt, columns).tobytes()


@by_name
def test_no_rows(fmt: NumberFormat) -> None:
    assert dequantize(np.empty((0, fmt.nbytes(256)), np.uint8), fmt, 256).shape == (0, 256)


@each_block_format
def test_memory_stays_bounded(fmt: NumberFormat) -> None:
    """Besides the result, taking 8 million numbers apart needs less than 4 MB."""
    data = random_bytes(fmt, 2, 1 << 22, finite=True)
    tracemalloc.start()
    try:
        taken = groups(data, fmt, 1 << 22)
        kept, peak = tracemalloc.get_traced_memory()
        assert kept >= taken.quants.nbytes
        assert peak - kept < 4 << 20
        del taken
        tracemalloc.reset_peak()
        values = dequantize(data, fmt, 1 << 22)
        assert tracemalloc.get_traced_memory()[1] - values.nbytes < 4 << 20
    finally:
        tracemalloc.stop()


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 40),
    blocks=st.integers(1, 6),
    which=st.sampled_from(RUNNABLE),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_shape_equals_the_reference(seed: int, rows: int, blocks: int, which: NumberFormat) -> None:
    columns = blocks * which.block_size
    data = random_bytes(which, rows, columns, finite=False, seed=seed)
    # The reference cannot take an empty array.
    expected = reference(data, which) if rows else np.empty((0, columns), np.float32)
    assert_same_bits(dequantize(data, which, columns), expected)


def test_the_table_agrees_with_ggml() -> None:
    """Every type that the `gguf` package knows has the same name, number and block here, except one.

    Q8_1 is only ever made in memory, and the package gives it a size that ggml no longer uses; here
    it is known by name alone.
    """
    for kind, (block_size, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":
            continue
        fmt = by_ggml_type(kind.value)
        assert (fmt.name, fmt.block_size, fmt.block_bytes) == (kind.name, block_size, block_bytes)


def test_sixteen_formats_run() -> None:
    assert {fmt.name for fmt in RUNNABLE} == {
        "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
        "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "said"),
    [(9, "Q8_1"), (4, "Q4_2"), (31, "Q4_0_4_4"), (42, "42"), (2**32 - 1, "4294967295"), (-1, "-1")],
)
def test_unknown_type_numbers_are_named(number: int, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said) as caught:
        by_ggml_type(number)
    assert "Q4_K" in caught.value.remedy


def test_safetensors_names() -> None:
    assert by_safetensors("BF16") is FORMATS["BF16"]
    assert not by_safetensors("F8_E4M3").runnable
    with pytest.raises(UnsupportedModel, match="F128"):
        by_safetensors("F128")


@pytest.mark.parametrize("name", ["IQ2_XXS", "TQ1_0", "NVFP4", "I32", "F64", "F8_E4M3"])
def test_formats_that_do_not_run_are_refused_by_name(name: str) -> None:
    fmt = FORMATS[name]
    data = np.zeros((1, fmt.nbytes(256)), np.uint8)
    with pytest.raises(UnsupportedModel, match=name):
        dequantize(data, fmt, 256)
    with pytest.raises(UnsupportedModel, match=name):
        groups(data, fmt, 256)


def test_wrong_arguments_are_refused() -> None:
    q4 = FORMATS["Q4_0"]
    with pytest.raises(ValueError, match="no whole number"):
        q4.nbytes(33)
    with pytest.raises(ValueError, match="expected uint8"):
        dequantize(np.zeros((2, 17), np.uint8), q4, 32)
    with pytest.raises(ValueError, match="expected uint8"):
        dequantize(np.zeros(18, np.uint8), q4, 32)
    with pytest.raises(ValueError, match="no block format"):
        groups(np.zeros((1, 128), np.uint8), FORMATS["F32"], 32)
