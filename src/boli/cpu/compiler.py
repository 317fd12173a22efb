"""Compiles kernels with Numba, once, and keeps the machine code on disk.

Numba takes half a second to import and seconds to compile, so a program that finds its kernels in
the cache never imports it: the object code is linked into the process by LLVM in milliseconds.

The cache lies in `<cache folder>/kernels`, one file a kernel, named by a hash of everything that
went into it: the kernels' source, the versions of Numba and LLVM, this CPU and its features. A
changed source or machine therefore never meets old code. Files are written under a temporary name,
renamed into place, and carry a hash of their content. Machine code is run as found, so a folder
that others may write to is not used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from boli.cpu import target
from boli.errors import BoliError
from boli.formats.table import CODEBOOKS
from boli.machine import cache_dir

# Everything whose text decides what the machine code does.
_SOURCES = (
    "simd.py", "dots.py", "lanes.py", "powers.py", "sync.py", "sizes.py", "layouts.py", "unpacking.py",
    "tiles.py", "matmul.py", "activations.py", "kernels.py", "kv.py", "amx.py", "amx_tiles.py",
    "attention.py", "heads.py", "stages.py", "largest.py", "step.py", "plan.py", "probe.py", "target.py",
    "codegen.py", "compiler.py",
)  # fmt: skip

_MOST_FILES = 200  # of 5 to 100 kB; one version of boli has about 35

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Unit:
    """One compiled function.

    Attributes:
        name: Distinguishes it from the others; part of the file's name.
        arguments: How many int64 arguments it takes. It returns an int64 or nothing.
        source: Makes the Python function to compile; called only if it is not in the cache.
    """

    name: str
    arguments: int
    source: Callable[[], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Function:
    """Machine code in this process: its address, and itself as a callable that releases the GIL."""

    address: int
    arguments: int

    def __call__(self, *values: int) -> int:
        """Runs it with int64 arguments; returns its result, or 0 if it has none."""
        result = ctypes.c_int64()
        _prototype(self.arguments)(self.address)(ctypes.addressof(result), None, *values)
        return result.value


@functools.cache
def _prototype(arguments: int) -> Any:
    # Numba's calling convention: a place for the result, one for an exception, then the arguments.
    return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *([ctypes.c_int64] * arguments))


def _text() -> bytes:
    """A hash of the kernels' source as it lies on the disk now."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.digest()


_TEXT = _text()  # of what this process imports


@functools.cache
def _key() -> str:
    """Names everything that machine code depends on, besides the unit."""
    digest = hashlib.sha256(_TEXT)
    digest.update(_numba_version())
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    forms = (target.dot_form(), target.bf16_form(), target.tile_registers(), target.fetches_by_itself())
    others = llvmlite.__version__, target.cpu(), target.flags(), forms, settings, sorted(CODEBOOKS.items())
    digest.update(repr(others).encode())
    return digest.hexdigest()[:24]


def _numba_version() -> bytes:
    """What tells one version of Numba from another, without importing it or its metadata."""
    found = importlib.util.find_spec("numba")
    if found is None or found.origin is None:
        raise BoliError("Numba is not installed", remedy="install boli again; it needs Numba")
    return Path(found.origin).with_name("_version.py").read_bytes()


def folder() -> Path:
    """Where compiled kernels are kept."""
    return cache_dir() / "kernels"


@functools.cache
def _engine() -> Any:
    """LLVM's linker for object code, one for the process. Its code lives as long as the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


_loaded: dict[str, Function] = {}


def load(units: list[Unit], progress: Progress | None = None) -> list[Function]:
    """Machine code for each unit, from this process, the disk, or the compiler.

    Args:
        units: What is needed.
        progress: Told what is being compiled, if anything is.

    Raises:
        BoliError: a kernel could not be compiled or linked.
    """
    missing = [unit for unit in units if unit.name not in _loaded and _read(unit) is None]
    for number, unit in enumerate(missing, 1):
        if progress is not None:
            progress(f"compiling kernel {number}/{len(missing)} for {target.cpu()}: {unit.name}")
        _write(unit, _compile(unit))
    found = []
    for unit in units:
        if unit.name not in _loaded:
            _loaded[unit.name] = _link(unit)
        found.append(_loaded[unit.name])
    return found


_objects: dict[str, bytes] = {}


def _symbol(unit: Unit) -> str:
    """The one name in a unit's object code that others can see."""
    return f"boli_{unit.name}"


def _link(unit: Unit) -> Function:
    symbol = _symbol(unit)
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(_objects[unit.name]))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    if not address:
        raise BoliError(f"the compiled kernel {unit.name} could not be linked", cause=f"no symbol {symbol}")
    _objects.pop(unit.name, None)
    return Function(address, unit.arguments)


def _compile(unit: Unit) -> bytes:
    """Object code of a freshly compiled unit."""
    # Half a second, paid only when something is compiled.
    from numba import njit, types  # noqa: PLC0415

    from boli.cpu.codegen import chosen_instructions, object_code  # noqa: PLC0415

    signature = (types.int64,) * unit.arguments
    with chosen_instructions():
        dispatcher = njit(
            signature, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
        )(unit.source())
        compiled = dispatcher.overloads[signature]
        return object_code(compiled.library, compiled.fndesc.llvm_func_name, _symbol(unit))


def _path(unit: Unit) -> Path:
    return folder() / f"{unit.name}-{_key()}.o"


def trusted(directory: Path) -> bool:
    """Whether only this user can have put anything there."""
    try:
        status = directory.stat()
    except OSError:
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _read(unit: Unit) -> bytes | None:
    if unit.name in _objects:
        return _objects[unit.name]
    path = _path(unit)
    if not trusted(path.parent):
        return None
    try:
        header, _, code = path.read_bytes().partition(b"\n")
        facts = json.loads(header)
        if facts["sha256"] != hashlib.sha256(code).hexdigest():
            return None
        # Kept until it is linked: to make room for another unit, any process may remove the file.
        _objects[unit.name] = code
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with suppress(OSError):
        os.utime(path)
    return _objects[unit.name]


def _write(unit: Unit, code: bytes) -> None:
    """Keeps code for this process and, if the disk lets us, for the next one.

    Not where boli's own files have changed since this process began, as they do in an upgrade: code from
    one half and the other would be found under the name of either, and believed for ever.
    """
    _objects[unit.name] = code
    if _text() != _TEXT:
        return
    path = _path(unit)
    header = {
        "sha256": hashlib.sha256(code).hexdigest(),
        "unit": unit.name,
        "cpu": target.cpu(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    except OSError:
        return  # a read-only cache costs time at the next start, nothing else
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n" + code)
        Path(temporary).replace(path)
        _forget_oldest(path.parent)
    except OSError:
        Path(temporary).unlink(missing_ok=True)


def _forget_oldest(directory: Path) -> None:
    """Keeps the cache bounded: those that were not used for longest go."""
    files = sorted(directory.glob("*.o"), key=lambda file: file.stat().st_mtime)
    for file in files[:-_MOST_FILES]:
        file.unlink(missing_ok=True)
