"""Which instructions the kernels are compiled for. Light: no Numba, no NumPy."""

from __future__ import annotations

import functools
import os
from typing import Literal

import llvmlite.binding as llvm

DotForm = Literal["avx512vnni", "portable"]


@functools.cache
def features() -> dict[str, bool]:
    """The instruction sets of this CPU, by LLVM's names."""
    return dict(llvm.get_host_cpu_features())


@functools.cache
def cpu() -> str:
    """LLVM's name of this CPU."""
    return str(llvm.get_host_cpu_name())


def dot_form() -> DotForm:
    """How four-byte dot products are computed; `BOLI_SIMD=portable` forces the portable form."""
    if os.environ.get("BOLI_SIMD", "").lower() == "portable":
        return "portable"
    if features().get("avx512vnni") and features().get("avx512bw"):
        return "avx512vnni"
    return "portable"
