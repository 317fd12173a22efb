"""Powers of two and pairs of bfloat16, in the form of this processor and in the one for all others."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from numpy.typing import NDArray

from boli.cpu import dots, powers
from cpu import machine_code as mc

Float32 = NDArray[np.float32]


@pytest.fixture(params=["avx512", "any"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    found = llvm.get_host_cpu_features()
    if name == "any":
        monkeypatch.setattr(powers, "features", dict)
    elif not (found.get("avx512dq") and found.get("avx512bf16")):
        pytest.skip("this processor has no AVX-512 with bfloat16")
    for module in (powers, dots):
        monkeypatch.setattr(module, "bf16_form", lambda: "avx512bf16" if name == "avx512" else "fma")
    return name


def built(operation: Any) -> mc.Native:
    return mc.Native(mc.host(), *mc.body(operation))


def powers_of(run: mc.Native, x: Float32) -> Float32:
    found = np.empty_like(x)
    for at in range(0, len(x), 16):
        run(found[at : at + 16], x[at : at + 16])
    return found


def all_floats(low: float, high: float) -> Float32:
    """Numbers of every size and near every integer between two bounds; a multiple of 16 of them."""
    rng = np.random.default_rng(0)
    whole = np.arange(np.ceil(low), high)
    near = np.concatenate([np.nextafter(whole.astype(np.float32), np.float32(way)) for way in (-999, 999)])
    tiny = -(np.float32(2.0) ** -np.arange(1, 140))
    random = rng.uniform(low, high, 100_000), rng.uniform(-2, 0, 100_000)
    numbers = np.concatenate([whole, near, tiny, *random])
    return np.ascontiguousarray(numbers[: len(numbers) // 16 * 16], np.float32)


@pytest.mark.parametrize(("operation", "error"), [(powers.exp2, 2.0**-23), (powers.exp2_for_bf16, 9e-5)])
def test_powers_are_as_near_as_they_say(operation: Any, error: float, form: str) -> None:
    """Full: 2e-9 of the polynomial and its roundings, one unit in the last place in all."""
    run = built(operation)
    x = all_floats(-125.9, 126)
    exact = np.exp2(x.astype(np.float64))
    assert np.max(np.abs(powers_of(run, x) - exact) / exact) <= error


@pytest.mark.parametrize("operation", [powers.exp2, powers.exp2_for_bf16])
def test_the_ends(operation: Any, form: str) -> None:
    run = built(operation)
    x = np.array([0, -0.0, -np.inf, np.nan, -1, -200, -1e30, -3e38, 1, 2, -2, 3, -3, 4, -4, -125], np.float32)
    found = powers_of(run, x)
    np.testing.assert_array_equal(found[[0, 1, 2, 5, 6, 7]], [1, 1, 0, 0, 0, 0])
    assert np.isnan(found[3])
    np.testing.assert_array_equal(np.delete(found, 3), np.exp2(np.delete(x, 3)))
    subnormal = powers_of(run, np.linspace(-149, -126.01, 64, dtype=np.float32))
    assert np.all((subnormal >= 0) & (subnormal < 2.0**-126))


def test_pairs_are_the_nearest_in_their_order(form: str) -> None:
    run, total = built(powers.store_rounded), built(powers.add_rounded)
    rng = np.random.default_rng(1)
    for _ in range(200):
        low, high = rng.uniform(0, 1, (2, 16)).astype(np.float32)
        low[0], high[1] = 0, 1
        stored, sums = np.empty(32, np.int32), np.empty(16, np.float32)
        place = np.array([stored.ctypes.data])
        run(place, low, high)
        if form == "avx512":
            halves = (stored[:16].view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(16, 2)
        else:
            assert not np.any(stored & 0xFFFF)
            halves = stored.view(np.float32).reshape(2, 16).T
        for side, wanted in enumerate((low, high)):
            assert np.all(np.abs(halves[:, side] - wanted) <= wanted * 2.0**-8)  # half a step of 8 bits
        assert (halves[0, 0], halves[1, 1]) == (0, 1)
        before = rng.uniform(0, 300, 16).astype(np.float32)
        total(sums, before, place)
        np.testing.assert_array_equal(sums, (before + halves[:, 1]) + halves[:, 0])


@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64-v4", "neoverse-n1"])
def test_every_operation_is_made_of_instructions(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(powers, "features", dict)
    for module in (powers, dots):
        monkeypatch.setattr(module, "bf16_form", lambda: "fma")
    machine = mc.machine(mc.ARM if cpu.startswith("neoverse") else mc.X86, cpu)
    for operation in mc.operations(powers).values():
        assert not mc.calls(mc.assembly(machine, *mc.body(operation)))
