"""Which instructions the kernels are compiled for. Light: no Numba, no NumPy.

The processor decides, or the user: `BOLI_SIMD` names a form of dot product, and with it the
instruction set that everything else may use. So `BOLI_SIMD=avx2` on a newer machine gives the code
that an AVX2 machine runs.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Mapping
from typing import Literal

import llvmlite.binding as llvm

from boli.errors import BoliError, UsageError
from boli.machine import cpu_name

DotForm = Literal["avx512vnni", "avxvnni", "avx2", "neon_i8mm", "neon_dotprod", "portable"]
Bf16Form = Literal["avx512bf16", "neon_bf16", "fma", "portable"]
PAIR_FORMS = ("avx512bf16", "neon_bf16")  # have an instruction for pairs; to the kernels the others are one

# What a form asks of the processor, by LLVM's names; the best one comes first. The halves and fused
# products that all kernels use are named where a processor might have the rest without them.
_NEEDS: dict[DotForm, tuple[str, ...]] = {
    "avx512vnni": ("avx512vnni", "avx512bw", "avx512vl"),
    "avxvnni": ("avxvnni", "avx2", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
    "neon_i8mm": ("i8mm",),
    "neon_dotprod": ("dotprod",),
    "portable": (),
}


# What LLVM does not look for on Linux on Arm: which word of the auxiliary vector has it, and which
# bit (Linux, asm/hwcap.h).
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM = {"dotprod": (_AT_HWCAP, 20), "i8mm": (_AT_HWCAP2, 13), "bf16": (_AT_HWCAP2, 14)}

# Linux, arch/x86/include/uapi/asm/prctl.h, and the number of the tiles among a processor's extended states.
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def host_features() -> dict[str, bool]:
    """The instruction sets of this processor, by LLVM's names."""
    found = dict(llvm.get_host_cpu_features())
    if (platform.system(), platform.machine()) == ("Linux", "aarch64"):
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        found |= {name: bool(getauxval(word) >> bit & 1) for name, (word, bit) in _ARM.items()}
    return found


@functools.cache
def cpu() -> str:
    """LLVM's name of this processor."""
    return str(llvm.get_host_cpu_name())


@functools.cache
def dot_form() -> DotForm:
    """How products of bytes are summed: the best form of this processor, or what `BOLI_SIMD` says.

    Raises:
        UsageError: `BOLI_SIMD` names no form, or one that this processor cannot run.
        BoliError: The processor is too old for all of them.
    """
    return choose(os.environ.get("BOLI_SIMD", ""), host_features())


def choose(setting: str, features: Mapping[str, bool]) -> DotForm:
    """The form that a setting asks for on a processor with these features; if empty, the best one."""
    if features.get("sse2") and not features.get("f16c"):
        # LLVM would call a function that is in no library of ours.
        raise BoliError(
            "boli cannot run on this processor",
            cause="it has no instructions for half-precision numbers (F16C)",
            remedy="use an x86 processor of 2013 or later; a virtual machine must pass its features on",
        )
    possible = [form for form, needs in _NEEDS.items() if all(features.get(need) for need in needs)]
    if not setting:
        return possible[0]
    for form in possible:
        if form == setting.lower():
            return form
    known = setting.lower() in _NEEDS
    raise UsageError(
        f"BOLI_SIMD={setting} cannot be used",
        cause="this processor does not have these instructions" if known else "there is no such form",
        remedy=f"unset it, or set it to one of {', '.join(possible)}",
    )


def bf16_form() -> Bf16Form:
    """How products of bfloat16 pairs are summed; `BOLI_SIMD=portable` holds here too.

    Intel's cores take two cycles for AVX-512's instruction, and one for the two fused multiplications that it
    stands for (docs/decisions, kernels, 30). Where they have tile registers they hardly need either.
    """
    if dot_form() == "portable":
        return "portable"
    if features().get("avx512bf16") and (tile_registers() or not _is_intel()):
        return "avx512bf16"
    return "neon_bf16" if features().get("bf16") else "fma"


@functools.cache
def tile_registers() -> bool:
    """Whether numbers in bfloat16 are multiplied in tile registers (Intel's AMX).

    If the processor has them and the system lets this process; the forms that `BOLI_SIMD` names do without.
    """
    needs = ("amx-tile", "amx-bf16", "avx512bf16")
    return (
        not os.environ.get("BOLI_SIMD")
        and dot_form() == "avx512vnni"
        and all(host_features().get(need) for need in needs)
        and _tiles_granted()
    )


def _tiles_granted() -> bool:
    """Asks Linux for the tile registers, which a process must do before it uses them; for all its threads.

    It refuses where a thread's stack for signals has no room for them.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA)) == 0


@functools.cache
def fetches_by_itself() -> bool:
    """Whether this processor reads one stream as fast as it can without being told what comes next.

    AMD's Zen 4 does, and is hampered by being told; Intel's Xeons do not (docs/decisions, kernels, 4 and 27).
    """
    return not _is_intel()


def _is_intel() -> bool:
    return "Intel" in cpu_name()


def features() -> dict[str, bool]:
    """What the compiler may use: all that the processor has, less AVX-512 for the forms below it."""
    narrow = dot_form() in ("avxvnni", "avx2")
    return {name: on and not (narrow and _is_avx512(name)) for name, on in host_features().items()}


def flags() -> str:
    """`features` as LLVM reads them: `+avx2,…,-avx512f,…`. What is off comes last, so it stays off."""
    found = features()
    order = sorted(found, key=lambda name: (not found[name], name))
    return ",".join(f"{'+' if found[name] else '-'}{name}" for name in order)


def _is_avx512(name: str) -> bool:
    # AVX10 and one part of AMX bring AVX-512 in again.
    return "avx512" in name or name.startswith("avx10")
