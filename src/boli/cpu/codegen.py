"""Makes Numba compile for the instructions that `target.py` chose. Imports Numba.

Numba asks LLVM what the processor has and uses all of it. We may want less, to try what an older
machine would run; and on Arm LLVM does not see all there is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from numba.core.codegen import JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from boli.cpu import target


class _Codegen(JITCPUCodegen):  # type: ignore[misc]  # Numba has no types
    """Numba's back end for a processor of our description."""

    def _get_host_cpu_name(self) -> str:
        return target.cpu()

    def _customize_tm_features(self) -> str:
        return target.flags()


@functools.cache
def _codegen() -> _Codegen:
    return _Codegen("boli")


@contextlib.contextmanager
def chosen_instructions() -> Iterator[None]:
    """What Numba compiles inside is made of the chosen instructions; other threads wait so long."""
    context = cpu_target.target_context
    with global_compiler_lock:
        before, context._internal_codegen = context._internal_codegen, _codegen()
        try:
            yield
        finally:
            context._internal_codegen = before
