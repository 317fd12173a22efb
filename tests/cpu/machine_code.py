"""Compiles what the kernels are made of for any processor, and runs it: here, or under QEMU.

Numba compiles only for the processor it runs on. Here LLVM gets the same code from our `emit`
functions and from the operations of `simd.py`, `lanes.py`, `sync.py` and `tiles.py`, as the body of
a function `kernel` that takes int64 numbers and addresses.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core.extending import _Intrinsic
from numpy.typing import NDArray

from boli.cpu.simd import F32, I64, Vector, emit_load, pointer

ARM = "aarch64-linux-gnu"
X86 = "x86_64-linux-gnu"

Emit = Callable[..., None]
Argument = int | NDArray[Any]

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()


@functools.cache
def machine(triple: str, cpu: str = "", features: str = "") -> Any:
    """LLVM's description of a processor."""
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, codemodel="small"
    )


def host() -> Any:
    """LLVM's description of this processor, all of it; a new one, as an engine takes it over."""
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        codemodel="jitdefault",
        jit=True,
    )


def kernel(target: Any, arguments: int, emit: Emit) -> Any:
    """A module whose function `kernel` does what `emit` says, optimized for a processor."""
    module = ir.Module()
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), "kernel")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, *function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def assembly(target: Any, arguments: int, emit: Emit) -> str:
    """The text of the machine code."""
    return str(target.emit_assembly(kernel(target, arguments, emit)))


def calls(text: str) -> set[str]:
    """The functions that machine code calls."""
    return set(re.findall(r"^\s(?:callq?|jmpq?|bl?)\s+([A-Za-z_]\w*)", text, re.MULTILINE))


def operations(module: ModuleType) -> dict[str, Any]:
    """What a module of kernels defines by `simd.operation`."""
    return {name: value for name, value in vars(module).items() if isinstance(value, _Intrinsic)}


def body(operation: Any) -> tuple[int, Emit]:
    """An operation as number of arguments and `emit`.

    The arguments are addresses: where the result goes, if there is one, then where each argument is.
    """
    signature, codegen = operation._defn(None)
    has_result = str(signature.return_type) != "none"

    def emit(builder: Any, *addresses: Any) -> None:
        sources = addresses[1:] if has_result else addresses
        values = [
            emit_load(builder, address, _llvm_type(kind), 4)
            for address, kind in zip(sources, signature.args, strict=True)
        ]
        result = codegen(_Context, builder, signature, values)
        if has_result:
            builder.store(result, pointer(builder, addresses[0], result.type), align=4)

    return len(signature.args) + has_result, emit


def tile_body(tile: Any) -> tuple[int, Emit]:
    """A tile, whose arguments are int64 already."""
    signature, codegen = tile._defn(None)

    def emit(builder: Any, *values: Any) -> None:
        codegen(_Context, builder, signature, values)

    return len(signature.args), emit


class _Context:
    """All that an operation asks of Numba's context."""

    @staticmethod
    def get_dummy_value() -> None:
        return None


def _llvm_type(kind: Any) -> ir.Type:
    return kind.llvm_type if isinstance(kind, Vector) else {"int64": I64, "float32": F32}[str(kind)]


class Native:
    """A `kernel` for this processor, linked into this process. Arrays are passed by their address."""

    def __init__(self, target: Any, arguments: int, emit: Emit) -> None:
        code = target.emit_object(kernel(target, arguments, emit))
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), host())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self._function = ctypes.CFUNCTYPE(None, *([ctypes.c_int64] * arguments))(
            self._engine.get_function_address("kernel")
        )

    def __call__(self, *arguments: Argument) -> None:
        self._function(*(a if isinstance(a, int) else a.ctypes.data for a in arguments))


# Reads the arguments, calls the kernel, writes the arrays: each is a word that says how many bytes
# follow, and a number if that is 0.
_MAIN = r"""
#include <stdio.h>
#include <stdlib.h>

void kernel(long, long, long, long, long, long, long, long);

static long word(void) {
    long value;
    if (fread(&value, 8, 1, stdin) != 1) exit(1);
    return value;
}

int main(void) {
    long argument[8] = {0}, size[8] = {0}, count = word();
    for (long n = 0; n < count; n++) {
        size[n] = word();
        if (!size[n]) { argument[n] = word(); continue; }
        void *memory = aligned_alloc(64, (size[n] + 63) / 64 * 64);
        if (fread(memory, 1, size[n], stdin) != (size_t)size[n]) exit(1);
        argument[n] = (long)memory;
    }
    kernel(argument[0], argument[1], argument[2], argument[3],
           argument[4], argument[5], argument[6], argument[7]);
    for (long n = 0; n < count; n++)
        if (size[n]) fwrite((void *)argument[n], 1, size[n], stdout);
    return 0;
}
"""

COMPILER, EMULATOR = f"{ARM}-gcc", "qemu-aarch64"


def can_emulate() -> bool:
    """Whether Debian's `gcc-aarch64-linux-gnu` and `qemu-user` are installed."""
    return shutil.which(COMPILER) is not None and shutil.which(EMULATOR) is not None


class Emulated:
    """A `kernel` for 64-bit Arm, run by QEMU in a process of its own. At most 8 arguments."""

    def __init__(self, target: Any, arguments: int, emit: Emit, folder: Path) -> None:
        (folder / "kernel.o").write_bytes(target.emit_object(kernel(target, arguments, emit)))
        (folder / "main.c").write_text(_MAIN)
        self._program = folder / "program"
        names = (str(folder / name) for name in ("program", "main.c", "kernel.o"))
        subprocess.run([COMPILER, "-static", "-o", *names], check=True)

    def __call__(self, *arguments: Argument) -> None:
        given = struct.pack("q", len(arguments))
        for a in arguments:
            if isinstance(a, int):
                given += struct.pack("qq", 0, a)
            else:
                given += struct.pack("q", a.nbytes) + a.tobytes()
        command = [EMULATOR, "-cpu", "max", str(self._program)]
        result = subprocess.run(command, input=given, capture_output=True, check=True).stdout
        for array in (a for a in arguments if not isinstance(a, int)):
            array[...] = np.frombuffer(result[: array.nbytes], array.dtype).reshape(array.shape)
            result = result[array.nbytes :]
