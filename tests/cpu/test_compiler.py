"""The cache of machine code: used when it is right, and only then."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from boli.cpu import codegen, compiler, lanes, simd, target
from boli.machine import cpu_features

# Compiles one small unit in a process of its own and says what happened.
PROGRAM = """
    import os, sys
    from boli.cpu import compiler
    compiled = []
    def source():
        compiled.append(1)
        def function(a, b):
            return a * 100 + b
        return function
    [function] = compiler.load([compiler.Unit("probe", 2, source)])
    print(len(compiled), function(3, 4), "numba" in sys.modules)
"""


def run(cache: Path, program: str = PROGRAM, *arguments: str, **settings: str) -> list[str]:
    """What a program prints, with this cache folder and these settings in its environment."""
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin", "HOME": str(cache), **settings}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the unit was compiled once."""
    folder = tmp_path_factory.mktemp("cache")
    assert run(folder) == ["1", "304", "True"]
    return folder


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(filled, tmp_path / "cache")


def objects(cache: Path) -> list[Path]:
    return list((cache / "boli" / "kernels").glob("*.o"))


def test_a_second_process_neither_compiles_nor_imports_numba(cache: Path) -> None:
    assert run(cache) == ["0", "304", "False"]
    assert len(objects(cache)) == 1


def test_code_is_not_kept_where_the_source_changed_since_the_process_began(tmp_path: Path) -> None:
    upgraded = PROGRAM.replace("compiled = []", "compiled = []; compiler._TEXT = b'as it was imported'")
    assert upgraded != PROGRAM
    assert run(tmp_path, upgraded) == ["1", "304", "True"]
    assert objects(tmp_path) == []


def test_code_that_makes_room_while_it_is_loaded_is_linked_all_the_same(cache: Path) -> None:
    """Two units, and room for one: what was read is used though its file goes."""
    another = PROGRAM.replace("compiled = []", "compiled = []; compiler._MOST_FILES = 1").replace(
        "[function] = compiler.load([", '_, function = compiler.load([compiler.Unit("other", 2, source), '
    )
    assert run(cache, another) == ["1", "304", "True"]
    assert len(objects(cache)) == 1


# Compiles units that are alike but for a number, each of which calls a function too long to be inlined.
ALIKE = """
    import sys
    from boli.cpu import compiler
    from boli.cpu.compiler import Unit

    def unit(number):
        def source():
            from boli.cpu.simd import kernel
            lines = [f"x = x * number ^ x >> {i % 7 + 1}" for i in range(150)]
            found = {"number": number}
            exec("def inner(x):\\n " + "\\n ".join(lines) + "\\n return x", found)
            inner = kernel(found["inner"])
            def function(a, b):
                return inner(a) ^ inner(b)
            return function
        return Unit(f"alike_{number}", 2, source)

    functions = compiler.load([unit(int(number)) for number in sys.argv[1:]])
    print(*[function(3, 4) for function in functions], "numba" in sys.modules)
"""


def test_kernels_that_were_compiled_by_different_processes_keep_their_own_functions(tmp_path: Path) -> None:
    """Numba gives what it compiles names with numbers, which each process begins at one."""
    (three, _), (five, _) = run(tmp_path, ALIKE, "3"), run(tmp_path, ALIKE, "5")
    assert three != five
    assert run(tmp_path, ALIKE, "3", "5") == [three, five, "False"]
    assert run(tmp_path, ALIKE, "5", "3") == [five, three, "False"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no header"])
def test_a_damaged_file_is_compiled_again(cache: Path, damage: str) -> None:
    (path,) = objects(cache)
    content = path.read_bytes()
    changed = {
        "truncated": content[:-10],
        "flipped": content[:-10] + bytes([content[-10] ^ 1]) + content[-9:],
        "empty": b"",
        "no header": content.partition(b"\n")[2],
    }[damage]
    path.write_bytes(changed)
    assert run(cache) == ["1", "304", "True"]
    assert path.read_bytes() == content


def test_code_from_a_folder_that_others_may_write_to_is_not_run(cache: Path) -> None:
    (cache / "boli" / "kernels").chmod(0o777)
    assert run(cache) == ["1", "304", "True"]


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "boli").write_text("a file where the folder should be")
    assert run(tmp_path) == ["1", "304", "True"]


@pytest.mark.parametrize("setting", ["BOLI_SIMD", "NUMBA_OPT"])
def test_settings_that_change_the_code_have_code_of_their_own(cache: Path, setting: str) -> None:
    value = {"BOLI_SIMD": "portable", "NUMBA_OPT": "1"}[setting]
    assert run(cache, **{setting: value}) == ["1", "304", "True"]
    assert len(objects(cache)) == 2
    assert run(cache, **{setting: value}) == run(cache) == ["0", "304", "False"]


def test_an_unknown_instruction_set_is_an_error_when_kernels_are_loaded(cache: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(cache, BOLI_SIMD="mmx")
    assert "UsageError: BOLI_SIMD=mmx cannot be used" in caught.value.stderr
    assert "portable" in caught.value.stderr


def double(source: int, destination: int) -> None:
    """Doubles 16 floats."""
    x = simd.load(source)
    simd.store(destination, lanes.add(x, x))


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif(
    not {"avx512vnni", "avx2"} <= cpu_features(), reason="this processor has no two widths to choose from"
)
@pytest.mark.parametrize(("form", "registers"), [("avx512vnni", "zmm"), ("avx2", "ymm")])
def test_code_keeps_to_the_instruction_set_that_was_chosen(
    form: str, registers: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(target, "dot_form", lambda: form)
    monkeypatch.setattr(codegen, "_codegen", lambda: codegen._Codegen(form))
    code = compiler._compile(compiler.Unit("double", 2, lambda: double))
    (tmp_path / "double.o").write_bytes(code)
    text = subprocess.run(
        ["objdump", "-d", tmp_path / "double.o"], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall("[xyz]mm", text)) == {registers}


def test_the_key_covers_every_file_that_kernels_are_made_of() -> None:
    """A changed helper must never meet old machine code."""
    program = "import sys, boli.cpu.step, boli.cpu.matmul; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith("boli.cpu.")]
    imported = {name.removeprefix("boli.cpu.") + ".py" for name in ours}
    assert imported | {"codegen.py", "compiler.py"} == set(compiler._SOURCES)
