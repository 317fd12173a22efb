"""The quantizers: bytes that GGUF's readers understand, and errors that are as small as they can be."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from boli.errors import NumericError
from boli.formats.numbers import dequantize, groups
from boli.formats.quantize import quantize
from boli.formats.table import FORMATS

Float32 = npt.NDArray[np.float32]

BF16, Q8_0, Q4_1 = FORMATS["BF16"], FORMATS["Q8_0"], FORMATS["Q4_1"]
each_target = pytest.mark.parametrize("name", ["BF16", "Q8_0", "Q4_1"])

# As large as trained weights usually are. Outliers: one weight in a hundred is ten times as large.
WEIGHTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]] = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape),
    "outliers": lambda rng, shape: rng.normal(size=shape) * (1 + 9 * (rng.random(shape) < 0.01)),
    "shifted": lambda rng, shape: rng.normal(size=shape) + 2,
}
each_distribution = pytest.mark.parametrize("kind", WEIGHTS)


def weights(kind: str, rows: int = 256, columns: int = 1024) -> Float32:
    values = WEIGHTS[kind](np.random.default_rng(0), (rows, columns))
    return (0.02 * values).astype(np.float32)


def restored(values: Float32, name: str) -> Float32:
    return dequantize(quantize(values, FORMATS[name]), FORMATS[name], values.shape[1])


def reference(values: Float32, name: str) -> Float32:
    """What ggml's own rounding leaves of the weights."""
    kind = gguf.GGMLQuantizationType[name]
    result: Float32 = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
    return result


def squared_error(values: Float32, others: Float32) -> float:
    return float(np.square(values.astype(np.float64) - others).sum())


def test_bf16_is_rounded_as_ggml_does_it() -> None:
    values = weights("heavy tails")
    theirs = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
    assert quantize(values, BF16).tobytes() == theirs.tobytes()


def test_bf16_rounds_to_nearest_and_ties_to_even() -> None:
    step = 2.0**-7
    steps = np.array([[0, 0.49, 0.5, 0.51, 1, 1.5, 2.5]], np.float32)
    assert restored(1 + steps * np.float32(step), "BF16").tolist() == [
        [1 + step * rounded for rounded in (0, 0, 0, 1, 1, 2, 2)]
    ]


@each_distribution
def test_int8_moves_no_weight_by_more_than_half_a_step(kind: str) -> None:
    values = weights(kind)
    taken = groups(quantize(values, Q8_0), Q8_0, values.shape[1])
    error = np.abs(values - restored(values, "Q8_0")).reshape(256, -1, 32)
    assert (error <= taken.scales[:, :, None] * 0.50001).all()
    assert (np.abs(taken.quants.reshape(error.shape)).max(axis=2) >= 126).all()  # the range is used


@each_distribution
def test_int8_is_as_good_as_ggmls(kind: str) -> None:
    """The same scales but for the last bit, which is rounded up here; so quants differ by 1 at most."""
    values = weights(kind)
    ours = groups(quantize(values, Q8_0), Q8_0, 1024)
    theirs = groups(gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0), Q8_0, 1024)
    np.testing.assert_allclose(ours.scales, theirs.scales, rtol=2**-10)
    assert np.abs(ours.quants.astype(int) - theirs.quants).max() <= 1
    assert squared_error(values, restored(values, "Q8_0")) < 1.003 * squared_error(
        values, reference(values, "Q8_0")
    )


def test_int8_keeps_small_weights_where_half_floats_are_coarse() -> None:
    values = weights("gaussian") * np.float32(1e-3)
    error = squared_error(values, restored(values, "Q8_0"))
    assert error < 0.8 * squared_error(values, reference(values, "Q8_0"))
    assert error < 1e-4 * squared_error(values, np.zeros_like(values))


@each_distribution
def test_int4_takes_a_sixth_off_the_error_of_plain_rounding(kind: str) -> None:
    """ggml's Q4_1 spreads its steps from the smallest weight to the largest. 0.79 … 0.81 were measured."""
    values = weights(kind)
    ours = squared_error(values, restored(values, "Q4_1"))
    assert ours < 5 / 6 * squared_error(values, reference(values, "Q4_1"))


def test_int4_is_near_the_best_of_a_fine_search() -> None:
    """Against 4,096 ranges a group, each with its least-squares line: 6 % from the best was measured."""
    values = weights("gaussian", 1, 2048)
    x = values.reshape(-1, 32).astype(np.float64)
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    best = np.full(len(x), np.inf)
    for lower in np.linspace(-0.05, 0.25, 64):
        for upper in np.linspace(-0.05, 0.25, 64):
            start, end = low + lower * (high - low), high - upper * (high - low)
            q = np.clip(np.rint((x - start) / (end - start) * 15), 0, 15)
            q0, x0 = q - q.mean(axis=1, keepdims=True), x - x.mean(axis=1, keepdims=True)
            line = (q0 * x0).sum(axis=1, keepdims=True) / (q0 * q0).sum(axis=1, keepdims=True) * q0
            best = np.minimum(best, np.square(x0 - line).sum(axis=1))
    assert squared_error(values, restored(values, "Q4_1")) < 1.08 * best.sum()


@each_target
def test_what_the_format_can_say_stays_what_it_is(name: str) -> None:
    """Zeros, constants that are half floats, and sixteen even steps, each alone in its groups."""
    values = np.zeros((3, 64), np.float32)
    values[1] = 0.0 if name == "Q8_0" else -0.375
    values[2] = np.tile(np.arange(32) % 16, 2) * np.float32(0.125) if name == "Q4_1" else 0.0
    assert restored(values, name).tolist() == values.tolist()


def test_rounding_again_changes_nothing() -> None:
    for name in ("BF16", "Q8_0"):
        once = restored(weights("laplace"), name)
        assert squared_error(once, restored(once, name)) < 1e-9 * squared_error(once, np.zeros_like(once))


any_weight = st.floats(-50000, 50000, width=32) | st.floats(-(2.0**-20), 2.0**-20, width=32)


@each_target
@given(arrays.arrays(np.float32, (2, 64), elements=any_weight))
@settings(max_examples=150, deadline=None)
def test_any_finite_weights_stay_near(name: str, values: Float32) -> None:
    """Within a step of the format; and a step is what the range of the group allows."""
    ours = restored(values, name).astype(np.float64)
    of_group = values.reshape(-1, 32).astype(np.float64)
    error = np.abs(ours.reshape(-1, 32) - of_group).max(axis=1)
    largest = np.abs(of_group).max(axis=1)
    if name == "BF16":
        step = largest * 2**-8
    elif name == "Q8_0":
        step = largest / 127 + 2.0**-24
    else:  # clipping may cost the ends more than a step; half floats are 2^-24 apart where they end
        step = 2 * (of_group.max(axis=1) - of_group.min(axis=1)) / 15 + largest * 2**-10 + 15 * 2.0**-25
    assert (error <= step + 1e-30).all()


@each_target
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38])
def test_what_is_not_finite_or_too_large_is_refused(name: str, bad: float) -> None:
    """Wherever it stands in the second piece of a large matrix."""
    values = np.zeros((1024, 128), np.float32)
    values[1023, 77] = bad
    with pytest.raises(NumericError, match=name):
        quantize(values, FORMATS[name])


@each_target
def test_pieces_do_not_matter(name: str) -> None:
    """A matrix is worked through in pieces; its rows come out as each alone."""
    values = weights("heavy tails", 70, 2048)
    whole = quantize(values, FORMATS[name])
    for row in (0, 31, 32, 69):
        assert quantize(values[row : row + 1], FORMATS[name]).tobytes() == whole[row].tobytes()


@each_target
def test_memory_is_bounded(name: str) -> None:
    values = np.zeros((2048, 4096), np.float32)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    result = quantize(values, FORMATS[name])
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < result.nbytes + (4 << 20)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="Q4_0"):
        quantize(np.zeros((1, 32), np.float32), FORMATS["Q4_0"])
    with pytest.raises(ValueError, match="48 columns"):
        quantize(np.zeros((2, 48), np.float32), Q8_0)


@each_target
def test_no_rows_give_no_bytes(name: str) -> None:
    assert quantize(np.zeros((0, 64), np.float32), FORMATS[name]).shape == (0, FORMATS[name].nbytes(64))
