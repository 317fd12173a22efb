"""The step that everybody runs has no trace of the probes in its source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm

from boli.cpu import compiler
from boli.cpu.runner import _step_unit
from cpu import without_probes


def sections(code: bytes) -> list[tuple[bytes, bytes]]:
    """What an object file holds, but for names: Numba counts its functions, in the order it meets them."""
    parts = [(part.name() or b"", part.data()) for part in llvm.ObjectFileRef.from_data(code).sections()]
    return [(name, data) for name, data in parts if name not in (b".strtab", b".symtab")]


def object_of(name: str, entry: str) -> bytes:
    """The machine code that runners use, compiled now if it never was."""
    unit = _step_unit(name, entry)
    compiler.load([unit])
    found = compiler._read(unit)
    assert found is not None
    return found


def test_the_plain_step_is_compiled_as_if_there_were_no_probes(tmp_path: Path) -> None:
    """Byte for byte the machine code of the source with all probes taken out."""
    file = tmp_path / "step.o"
    done = subprocess.run(
        [sys.executable, without_probes.__file__, file], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 25  # calls that were taken out
    stripped, plain = file.read_bytes(), object_of("step", "entry")
    assert any(b"text" in name and len(data) > 10_000 for name, data in sections(plain))
    assert sections(plain) == sections(stripped)


def test_only_the_watched_step_looks_at_the_clock() -> None:
    assert b"clock_gettime" not in object_of("step", "entry")
    assert b"clock_gettime" in object_of("step_probed", "observed_entry")
