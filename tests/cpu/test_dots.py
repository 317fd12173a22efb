"""The instruction sets: each form of dot product, run where that is possible, read where it is not."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from boli.cpu import dots, lanes, simd, sync, target, tiles
from boli.cpu.layouts import LAYOUTS, IntLayout
from boli.cpu.simd import F32X16, I8X64, I32X16, I64
from boli.cpu.sizes import stream_bytes
from boli.errors import BoliError, UsageError
from cpu import machine_code as mc

HAS_NEON = {"neon_dotprod": "+dotprod", "neon_i8mm": "+dotprod,+i8mm", "neon_bf16": "+bf16"}
# One instruction, one intrinsic: 256 bits of VPDPBUSD are run in the encoding of AVX-512.
NATIVE = {"avx512vnni": "avx512vnni", "avxvnni": "avx512vl", "avx2": "avx2"}

INSTRUCTIONS = {
    # form: processor, what must be there, what must not
    "avx512vnni": ((mc.X86, "icelake-server"), ["vpdpbusd", "%zmm"], ["{vex}", "call"]),
    "avxvnni": ((mc.X86, "alderlake"), ["{vex}\tvpdpbusd"], ["zmm", "call"]),
    "avx2": ((mc.X86, "x86-64-v3"), ["vpmaddwd"], ["zmm", "vpdpbusd", "call"]),
    "neon_i8mm": ((mc.ARM, "neoverse-v1"), ["\tusdot\tv"], ["\tsdot", "\tmul\tv", "\tbl\t"]),
    "neon_dotprod": ((mc.ARM, "neoverse-n1"), ["\tsdot\tv"], ["usdot", "\tmul\tv", "\tbl\t"]),
}

Words = NDArray[np.int32]


def force(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(dots, "dot_form", lambda: form)
    monkeypatch.setattr(dots, "bf16_form", lambda: form)


def built(arguments: int, emit: mc.Emit, form: str, folder: Path) -> Any:
    """A kernel of a form for where it can run; skips if that is nowhere."""
    if form.startswith("neon"):
        if not mc.can_emulate():
            pytest.skip(f"{mc.COMPILER} and {mc.EMULATOR} are not installed")
        return mc.Emulated(mc.machine(mc.ARM, "", HAS_NEON[form]), arguments, emit, folder)
    if form != "portable" and not llvm.get_host_cpu_features().get(NATIVE.get(form, form)):
        pytest.skip(f"this processor has no {form}")
    return mc.Native(mc.host(), arguments, emit)


# --- bytes ----------------------------------------------------------------------------------------


def emit_dots(bits: int) -> mc.Emit:
    """`total[n] += dot(weights[n], activations[n])` for `count` vectors."""

    def emit(b: Any, total: Any, weights: Any, activations: Any, count: Any) -> None:
        with cgutils.for_range(b, count, intp=I64) as loop:
            at = b.mul(loop.index, ir.Constant(I64, 64))
            place = b.add(total, at)
            w = simd.emit_load(b, b.add(weights, at), I8X64, 1)
            a = simd.emit_load(b, b.add(activations, at), I32X16, 4)
            result = dots.emit_dot(b, simd.emit_load(b, place, I32X16, 4), w, a, bits=bits)
            b.store(result, simd.pointer(b, place, I32X16), align=4)

    return emit


def all_pairs(bits: int) -> tuple[Words, NDArray[np.uint8], NDArray[np.int8]]:
    """Sums and quads of bytes: every weight with every activation, alike and mixed in a quad."""
    rng = np.random.default_rng(bits)
    pairs = list(itertools.product(range(1 << bits), range(-127, 128)))
    w, a = (np.array(side) for side in zip(*pairs, strict=True))
    alike = [np.repeat(side[:, None], 4, axis=1) for side in (w, a)]
    mixed = [rng.permuted(side, axis=0) for side in alike]
    extremes = rng.choice([0, (1 << bits) - 1], mixed[0].shape), rng.choice([-127, 127], mixed[1].shape)
    weights, activations = (np.concatenate(sides) for sides in zip(alike, mixed, extremes, strict=True))
    missing = -len(weights) % 16
    weights, activations = (np.pad(side, ((0, missing), (0, 0))) for side in (weights, activations))
    totals = rng.integers(-(2**31), 2**31, len(weights), dtype=np.int32)
    return totals, weights.astype(np.uint8), activations.astype(np.int8)


@pytest.mark.parametrize("bits", [4, 7, 8])
@pytest.mark.parametrize("form", [*INSTRUCTIONS, "portable"])
def test_sums_of_bytes_are_exact(
    form: str, bits: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All pairs, sums that wrap around, and quads of the largest products, which 16 bits do not hold."""
    force(monkeypatch, form)
    run = built(4, emit_dots(bits), form, tmp_path)
    totals, weights, activations = all_pairs(bits)
    exact = totals + (weights.astype(np.int64) * activations).sum(axis=1)
    run(totals, weights, activations, len(totals) // 16)
    np.testing.assert_array_equal(totals, exact.astype(np.int32))


def emit_look_ups(values: tuple[int, ...]) -> mc.Emit:
    """`found = values[codes]` for one vector."""

    def emit(b: Any, found: Any, codes: Any) -> None:
        chosen = dots.emit_look_up(b, values, simd.emit_load(b, codes, I8X64, 1))
        b.store(chosen, simd.pointer(b, found, I8X64), align=1)

    return emit


@pytest.mark.parametrize("form", [*INSTRUCTIONS, "portable"])
def test_every_code_finds_its_value_in_every_lane(
    form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    force(monkeypatch, form)
    rng = np.random.default_rng(0)
    values = rng.permutation(256)[:16].astype(np.uint8)
    run = built(2, emit_look_ups(tuple(values.tolist())), form, tmp_path)
    for first in range(16):
        codes = ((np.arange(64) * 5 + first) % 16).astype(np.uint8)
        found = np.zeros(64, np.uint8)
        run(found, codes)
        np.testing.assert_array_equal(found, values[codes])


INTEGER_LAYOUTS = {name: layout for name, layout in LAYOUTS.items() if isinstance(layout, IntLayout)}


@pytest.mark.parametrize("layout", ["Q4_0", "Q8_0", "Q6_K", "IQ4_NL", "MXFP4"])
@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_tiles_are_made_of_a_forms_instructions(
    form: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, form)
    (triple, cpu), wanted, unwanted = INSTRUCTIONS[form]
    if INTEGER_LAYOUTS[layout].codebook:
        wanted = [*wanted, "\ttbl\tv" if "neon" in form else "\tvpshufb\t"]
    for rows in (1, 4):
        tile = tiles.int_tile(INTEGER_LAYOUTS[layout], rows)
        text = mc.assembly(mc.machine(triple, cpu), *mc.tile_body(tile))
        assert [part for part in wanted if part not in text] == []
        assert [part for part in unwanted if part in text] == []
        assert not mc.calls(text)


@pytest.mark.parametrize("count", [32, 128, 640, 1088])
def test_tiles_share_out_each_line_of_the_next_block(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one, two or three fetch a step: each of its lines is asked for once, in order."""
    asked: dict[str, list[int]] = {}

    def note(b: Any, address: Any) -> None:
        asked.setdefault(b.block.name, []).append(address.operands[1].constant)

    def emit(b: Any, start: Any, ahead: Any, share: Any) -> None:
        tiles.fetch(b, start, ahead, share, count)

    monkeypatch.setattr(simd, "emit_prefetch", note)
    mc.kernel(mc.host(), 3, emit)
    for turns in range(1, tiles.MOST_SHARES + 1):
        shares = [asked.get(f"fetch_{turn}_of_{turns}", []) for turn in range(turns)]
        assert [place for share in shares for place in share] == list(range(0, count, 64))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_are_numbered() -> None:
    every = [tiles.share_of(turn, turns) for turns in (1, 2, 3) for turn in range(turns)]
    assert every == [1, 2, 3, 4, 5, 6]
    assert [tiles.share_of(turn, 2) for turn in (-1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("name", ["Q5_1", "IQ4_NL", "MXFP4"])
@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_a_tile_gives_the_same_bits_in_all_forms(
    form: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three rows by 32 outputs, as this processor's portable code computes them."""
    layout, rows, depth = INTEGER_LAYOUTS[name], 3, 16
    rng = np.random.default_rng(0)
    # Bytes below 64 are small positive numbers in all places that hold floats; quants may be any.
    block = rng.integers(0, 64, layout.block_bytes(depth * 32)).astype(np.uint8)
    if layout.scale == "e8":
        block += 80  # 2^-48 … 2^15
    for step in range(depth):
        at = step * layout.step_bytes
        block[at : at + layout.quant_bytes] = rng.integers(0, 256, layout.quant_bytes)
    stream = rng.integers(0, 64, stream_bytes("int8", depth * 32) * rows).astype(np.uint8)
    stream = stream.reshape(depth, rows, -1)
    stream[..., :32] = rng.integers(-127, 128, (depth, rows, 32)).astype(np.int8).view(np.uint8)
    found = []
    for each in (form, "portable"):
        force(monkeypatch, each)
        run = built(*mc.tile_body(tiles.int_tile(layout, rows)), each, tmp_path)
        y = np.zeros((rows, 32), np.float32)
        run(block, depth, stream, y, y.strides[0], 0, 0, 0)
        found.append(y)
    assert np.isfinite(found[0]).all() and np.ptp(found[0]) > 100
    np.testing.assert_array_equal(found[0].view(np.int32), found[1].view(np.int32))


# --- bfloat16 -------------------------------------------------------------------------------------


def emit_dots_bf16(b: Any, total: Any, left: Any, right: Any, count: Any) -> None:
    """The same for pairs of bfloat16 numbers."""
    with cgutils.for_range(b, count, intp=I64) as loop:
        at = b.mul(loop.index, ir.Constant(I64, 64))
        place = b.add(total, at)
        pairs = (simd.emit_load(b, b.add(side, at), I32X16, 4) for side in (left, right))
        result = dots.emit_dot_bf16(b, simd.emit_load(b, place, F32X16, 4), *pairs)
        b.store(result, simd.pointer(b, place, F32X16), align=4)


def bf16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Cut to bfloat16."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def wide(values: NDArray[np.uint16]) -> NDArray[np.float64]:
    numbers: NDArray[np.float32] = (values.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float64)


@pytest.mark.parametrize("form", ["fma", "avx512bf16", "neon_bf16"])
def test_sums_of_bfloat16_numbers(form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    force(monkeypatch, form)
    run = built(4, emit_dots_bf16, form, tmp_path)
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> NDArray[np.float64]:
        # Of such a size that float64 holds all products and sums below exactly.
        sizes: NDArray[np.float64] = 2.0 ** rng.integers(-6, 7, shape) * rng.choice([-1, 1], shape)
        return rng.uniform(1, 2, shape) * sizes

    totals = numbers(4096).astype(np.float32)
    left, right = bf16(numbers(4096, 2)), bf16(numbers(4096, 2))
    products = wide(left) * wide(right)
    first = (totals + products[:, 1]).astype(np.float32)
    expected = (first + products[:, 0]).astype(np.float32)
    magnitude = np.abs(totals) + np.abs(products).sum(axis=1)
    run(totals, left, right, len(totals) // 16)
    if form == "neon_bf16":
        # Sums rounded to odd, at worst an ulp each.
        assert (np.abs(totals - expected.astype(np.float64)) <= 2.0**-22 * magnitude).all()
    else:
        np.testing.assert_array_equal(totals, expected)


@pytest.mark.parametrize(("form", "kept"), [("fma", True), ("avx512bf16", False), ("neon_bf16", False)])
def test_subnormal_bfloat16_numbers_count_as_stated(
    form: str, kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    force(monkeypatch, form)
    run = built(4, emit_dots_bf16, form, tmp_path)
    totals, left, right = np.zeros(16, np.float32), np.zeros((16, 2)), np.zeros((16, 2))
    left[:, 0], right[:, 0] = 2.0**-130, 2.0**20
    run(totals, bf16(left), bf16(right), 1)
    assert set(totals.tolist()) == {2.0**-110 if kept else 0.0}


# --- the other operations -------------------------------------------------------------------------

PROCESSORS = [(mc.X86, "x86-64-v3"), (mc.X86, "x86-64-v4"), (mc.ARM, ""), (mc.ARM, "neoverse-n1")]


@pytest.mark.parametrize("processor", PROCESSORS, ids=str)
@pytest.mark.parametrize("module", [simd, lanes, sync], ids=lambda module: module.__name__)
def test_every_operation_is_made_of_instructions(module: Any, processor: tuple[str, str]) -> None:
    """No call of a helper such as `__extendhfsf2`, which a linker in a process may not find."""
    for name, operation in mc.operations(module).items():
        found = mc.calls(mc.assembly(mc.machine(*processor), *mc.body(operation)))
        assert all(re.match("pthread_|sched_yield", called) for called in found), name


# --- the choice -----------------------------------------------------------------------------------

ZEN_4 = ("sse2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni")
ALDER_LAKE = ("sse2", "avx2", "fma", "f16c", "avxvnni")


@pytest.mark.parametrize(
    ("features", "form"),
    [
        (ZEN_4, "avx512vnni"),
        ((*ZEN_4, "avxvnni"), "avx512vnni"),
        (ALDER_LAKE, "avxvnni"),
        (ZEN_4[:-1], "avx2"),  # AVX-512 of the first generation
        (("sse2", "f16c"), "portable"),
        (("neon", "dotprod", "i8mm"), "neon_i8mm"),
        (("neon", "dotprod"), "neon_dotprod"),
        (("neon",), "portable"),
        ((), "portable"),
    ],
)
def test_the_best_form_is_chosen(features: tuple[str, ...], form: str) -> None:
    assert target.choose("", dict.fromkeys(features, True)) == form
    assert target.choose("portable", dict.fromkeys(features, True)) == "portable"


@pytest.mark.parametrize(
    ("has", "name", "tiles", "form"),
    [
        ("avx512bf16", "AMD EPYC", False, "avx512bf16"),
        ("avx512bf16", "Intel Xeon", False, "fma"),
        ("avx512bf16", "Intel Xeon", True, "avx512bf16"),
        ("bf16", "Neoverse", False, "neon_bf16"),
        ("", "Intel Xeon", False, "fma"),
    ],
)
def test_pairs_of_bfloat16_are_multiplied_as_is_fastest(
    has: str, name: str, tiles: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "dot_form", lambda: "avx512vnni")
    monkeypatch.setattr(target, "features", lambda: {has: True})
    monkeypatch.setattr(target, "cpu_name", lambda: name)
    monkeypatch.setattr(target, "tile_registers", lambda: tiles)
    assert target.bf16_form() == form
    monkeypatch.setattr(target, "dot_form", lambda: "portable")
    assert target.bf16_form() == "portable"


def test_a_form_that_is_no_form_or_not_here_is_refused_with_those_that_are() -> None:
    has = dict.fromkeys(ALDER_LAKE, True)
    assert target.choose("AVX2", has) == "avx2"
    for setting, cause in (("sse9", "no such form"), ("avx512vnni", "this processor does not have")):
        with pytest.raises(UsageError, match=setting) as caught:
            target.choose(setting, has)
        assert cause in caught.value.cause
        assert "avxvnni, avx2, portable" in caught.value.remedy


def test_an_old_processor_is_told_so() -> None:
    with pytest.raises(BoliError, match="processor") as caught:
        target.choose("", {"sse2": True, "avx": True, "f16c": False})
    assert "F16C" in caught.value.cause
