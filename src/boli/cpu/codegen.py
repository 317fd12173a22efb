"""Makes Numba compile for the instructions that `target.py` chose. Imports Numba.

Numba asks LLVM what the processor has and uses all of it. We may want less, to try what an older
machine would run; and on Arm LLVM does not see all there is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from boli.cpu import target


class _Library(JITCodeLibrary):  # type: ignore[misc]  # Numba has no types
    """What Numba has made of one function, linked with what it calls, and not compiled yet.

    Numba optimizes and compiles each function that it meets, and again wherever it is called. Only
    the outermost one is of use, so all that is left to `object_code`: a third of the time.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # never called from Python


class _Codegen(JITCPUCodegen):  # type: ignore[misc]  # Numba has no types
    """Numba's back end for a processor of our description."""

    _library_class = _Library

    def _get_host_cpu_name(self) -> str:
        return target.cpu()

    def _customize_tm_features(self) -> str:
        return target.flags()

    def set_env(self, env_name: str, env: object) -> None:
        """Nothing: compiled code that touches no Python object needs no environment."""


@functools.cache
def _codegen() -> _Codegen:
    return _Codegen("boli")


def object_code(library: Any, entry: str, symbol: str) -> bytes:
    """Optimizes and compiles the library of the outermost function.

    Args:
        library: What Numba has made of it.
        entry: Numba's name for the function.
        symbol: The only name that others will see. Numba tells functions of one name apart by counting
            what it has met in this process, so code of another process can have the same names for
            other functions, and a linker that met both would take the first for either.
    """
    library._ensure_finalized()  # links what it calls
    JITCodeLibrary._optimize_final_module(library)
    module = library._final_module
    for function in module.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
    module.get_function(entry).name = symbol
    module.verify()
    return bytes(library._codegen._tm.emit_object(module))


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
